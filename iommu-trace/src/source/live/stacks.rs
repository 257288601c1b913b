//! Kernel stacks by id, named through the symbol table. That is opened at once, with the privileges that it takes, and read when
//! the first stack is asked for.

use std::{
    fs::File,
    sync::{Mutex, OnceLock, PoisonError},
};

use anyhow::Context as _;
use aya::maps::{Map, MapData, StackTraceMap};

use crate::{
    kernel::Symbols,
    sandbox::{Grant, Needs},
    source::{Frame, Stacks},
};

/// The stack map of a running trace.
pub struct LiveStacks {
    map: Mutex<StackTraceMap<MapData>>,
    /// `None` once it is read, or where nobody asks for stacks.
    table: Mutex<Option<File>>,
    symbols: OnceLock<Symbols>,
}

impl LiveStacks {
    /// `wanted` tells whether anybody will ask for stacks.
    pub fn new(map: Map, wanted: bool) -> anyhow::Result<LiveStacks> {
        let map = StackTraceMap::try_from(map).context("the map STACKS is no stack map")?;
        let open =
            || Symbols::open().inspect_err(|error| tracing::warn!("stacks are shown as addresses: {error:#}")).ok();
        let table = if wanted { open() } else { None };
        Ok(LiveStacks { map: Mutex::new(map), table: Mutex::new(table), symbols: OnceLock::new() })
    }

    fn symbols(&self) -> &Symbols {
        self.symbols.get_or_init(|| {
            let table = self.table.lock().unwrap_or_else(PoisonError::into_inner).take();
            let symbols = table.map_or_else(|| Ok(Symbols::default()), Symbols::read);
            symbols.unwrap_or_else(|error| {
                tracing::warn!("stacks are shown as addresses: {error:#}");
                Symbols::default()
            })
        })
    }
}

impl Stacks for LiveStacks {
    fn frames(&self, id: u32) -> Vec<Frame> {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(trace) = map.get(&id, 0) else { return Vec::new() };
        trace.frames().iter().map(|frame| Frame { addr: frame.ip, symbol: self.symbols().name(frame.ip) }).collect()
    }

    fn needs(&self) -> Needs {
        Needs::NOTHING.and(Grant::Maps)
    }
}
