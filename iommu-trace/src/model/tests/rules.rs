//! Each rule: what breaks it, and the lawful thing that looks most like it.

mod faults;
mod handles;
mod others;
mod review;
