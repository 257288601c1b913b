//! What a run is made for: the loop of `run` gives it the batches of a source, and asks when it has enough.

use std::process::ExitCode;

use tokio::time::Instant;

use super::{processes::Descendants, session::Session};
use crate::{output::Exit, sandbox::Needs, source::Batch};

/// Takes what a source gives.
pub trait Consumer {
    /// Takes a batch in.
    fn take(&mut self, batch: &Batch) -> anyhow::Result<()>;

    /// There will be no more.
    fn end(&mut self, exit: Exit) -> anyhow::Result<()>;

    /// Whether it has as much as was asked for.
    fn is_full(&self) -> bool {
        false
    }

    /// When what it wrote must be flushed.
    fn waiting(&self) -> Option<Instant> {
        None
    }

    /// Hands on what was written.
    fn flush(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Until when to watch on, the command having ended now.
    fn settled_at(&self) -> Option<Instant> {
        None
    }

    /// What it needs from now on, besides what it has open.
    fn needs(&self) -> Needs {
        Needs::NOTHING
    }

    /// The exit status, where it decides about that.
    fn verdict(&self) -> Option<ExitCode> {
        None
    }

    /// Who descends from the command, for whom that is of interest.
    fn processes(&mut self) -> Option<&mut Descendants> {
        None
    }
}

impl Consumer for Session {
    fn take(&mut self, batch: &Batch) -> anyhow::Result<()> {
        Ok(Session::take(self, batch)?)
    }

    fn end(&mut self, exit: Exit) -> anyhow::Result<()> {
        Ok(Session::end(self, exit)?)
    }

    fn is_full(&self) -> bool {
        Session::is_full(self)
    }

    fn waiting(&self) -> Option<Instant> {
        self.waiting
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        Ok(Session::flush(self)?)
    }

    fn settled_at(&self) -> Option<Instant> {
        Session::settled_at(self)
    }

    fn verdict(&self) -> Option<ExitCode> {
        Session::verdict(self)
    }

    fn processes(&mut self) -> Option<&mut Descendants> {
        Some(&mut self.processes)
    }
}
