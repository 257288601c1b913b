//! The live dashboard.
//!
//! Three rooms that know nothing of terminals, files or clocks: [`state`] is fed with batches and holds what happened,
//! bounded; [`keys`] turns a key into an [`Action`](keys::Action) by one table; [`view`] draws a state into a buffer.
//! At the edge, [`engine`] feeds the state on a thread of its own, [`playback`] gives a recording the pace of time, the
//! terminal is taken and given back in one place, and [`run`] is the loop that joins them.
//!
//! Everything that is shown is a function of the state and of one time: the end of the window. Live, that is the newest
//! event's time; paused, it stands still, and stepping through history moves it. Nothing has to be copied for it, and
//! nothing that happens meanwhile is lost but what the bounded logs forget.

pub mod engine;
pub mod keys;
pub mod playback;
pub mod run;
pub mod state;
mod terminal;
pub mod view;
