//! The bytes of a recording, from a file or a pipe, in order and no more than asked for.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    os::{fd::AsFd as _, unix::fs::FileExt as _},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Bytes that are read at once.
const CHUNK: usize = 256 * 1024;

/// Whether there are as many bytes as were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// They are there.
    Yes,
    /// There may be more later.
    NotYet,
    /// The end came before.
    Ended,
}

/// A file or a pipe, read ahead. Several may read the same file: where one is in it is its own.
pub struct Input {
    file: File,
    /// Where the file was when we were given it.
    begin: u64,
    /// What was read and not consumed is from `start` to `end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Where in the input the buffer's start is.
    offset: u64,
    ended: bool,
    /// Whether a read returns at once.
    regular: bool,
}

impl Input {
    pub fn new(file: File) -> Self {
        let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        let begin = if regular { (&file).stream_position().unwrap_or(0) } else { 0 };
        Input { file, begin, buffer: vec![0; CHUNK], start: 0, end: 0, offset: 0, ended: false, regular }
    }

    /// Whether one can go back and forth in it.
    pub fn is_regular(&self) -> bool {
        self.regular
    }

    /// Where the next byte is.
    pub fn position(&self) -> u64 {
        self.offset
    }

    /// What is there already.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Sees to it that `len` bytes are there, waiting at most `timeout` for each read; `None` waits for ever.
    pub fn fill(&mut self, len: usize, timeout: Option<Duration>) -> io::Result<Filled> {
        while self.bytes().len() < len {
            if self.ended {
                return Ok(Filled::Ended);
            }
            if !self.regular && !self.wait(timeout)? {
                return Ok(Filled::NotYet);
            }
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            if self.buffer.len() < len {
                self.buffer.resize(len, 0);
            }
            let got = loop {
                let room = &mut self.buffer[self.end..];
                let got = if self.regular {
                    self.file.read_at(room, self.begin + self.offset + (self.end - self.start) as u64)
                } else {
                    self.file.read(room)
                };
                match got {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    got => break got?,
                }
            };
            self.end += got;
            self.ended = got == 0;
        }
        Ok(Filled::Yes)
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let fd = self.file.as_fd();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Passes over bytes that are there.
    pub fn consume(&mut self, len: usize) {
        let len = len.min(self.bytes().len());
        self.start += len;
        self.offset += len as u64;
    }

    /// Goes to a place in a regular file.
    pub fn seek(&mut self, to: u64) {
        (self.start, self.end, self.offset, self.ended) = (0, 0, to, false);
    }

    /// How long a regular file is.
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len().saturating_sub(self.begin))
    }
}
