//! Kernel stacks by id, named through the symbol table, which is read when the first stack is asked for.

use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::Context as _;
use aya::maps::{Map, MapData, StackTraceMap};

use crate::{
    kernel::Symbols,
    source::{Frame, Stacks},
};

/// The stack map of a running trace.
pub struct LiveStacks {
    map: Mutex<StackTraceMap<MapData>>,
    symbols: OnceLock<Symbols>,
}

impl LiveStacks {
    pub fn new(map: Map) -> anyhow::Result<LiveStacks> {
        let map = StackTraceMap::try_from(map).context("the map STACKS is no stack map")?;
        Ok(LiveStacks { map: Mutex::new(map), symbols: OnceLock::new() })
    }

    fn symbols(&self) -> &Symbols {
        self.symbols.get_or_init(|| {
            Symbols::running().unwrap_or_else(|error| {
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

    fn prepare(&self) {
        self.symbols();
    }
}
