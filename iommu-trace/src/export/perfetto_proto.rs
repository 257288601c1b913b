//! The messages of Perfetto's trace format that are written, with the numbers of its published schema
//! (`protos/perfetto/trace/perfetto_trace.proto`).

use prost::Message;

/// The file: packets, in any order.
#[derive(Clone, PartialEq, Message)]
pub struct Trace {
    /// Them.
    #[prost(message, repeated, tag = "1")]
    pub packet: Vec<TracePacket>,
}

/// One of them.
#[derive(Clone, PartialEq, Message)]
pub struct TracePacket {
    /// Nanoseconds of the boot clock.
    #[prost(uint64, optional, tag = "8")]
    pub timestamp: Option<u64>,
    /// Who wrote it: all the same here.
    #[prost(uint32, optional, tag = "10")]
    pub trusted_packet_sequence_id: Option<u32>,
    /// Something that happened on a track.
    #[prost(message, optional, tag = "11")]
    pub track_event: Option<TrackEvent>,
    /// 1: what was interned before is void.
    #[prost(uint32, optional, tag = "13")]
    pub sequence_flags: Option<u32>,
    /// A track.
    #[prost(message, optional, tag = "60")]
    pub track_descriptor: Option<TrackDescriptor>,
    /// Clocks at one moment.
    #[prost(message, optional, tag = "6")]
    pub clock_snapshot: Option<ClockSnapshot>,
}

/// Several clocks at one moment.
#[derive(Clone, PartialEq, Message)]
pub struct ClockSnapshot {
    /// Them.
    #[prost(message, repeated, tag = "1")]
    pub clocks: Vec<Clock>,
}

/// One clock: 1 is the time of day, 3 the monotonic one, 6 the boot clock.
#[derive(Clone, PartialEq, Message)]
pub struct Clock {
    /// Which.
    #[prost(uint32, optional, tag = "1")]
    pub clock_id: Option<u32>,
    /// What it shows.
    #[prost(uint64, optional, tag = "2")]
    pub timestamp: Option<u64>,
}

/// A track.
#[derive(Clone, PartialEq, Message)]
pub struct TrackDescriptor {
    /// Its number in this file.
    #[prost(uint64, optional, tag = "1")]
    pub uuid: Option<u64>,
    /// Its name.
    #[prost(string, optional, tag = "2")]
    pub name: Option<String>,
    /// The track that it belongs to.
    #[prost(uint64, optional, tag = "5")]
    pub parent_uuid: Option<u64>,
    /// The thread that it shows.
    #[prost(message, optional, tag = "4")]
    pub thread: Option<ThreadDescriptor>,
    /// It shows a number.
    #[prost(message, optional, tag = "8")]
    pub counter: Option<CounterDescriptor>,
    /// 3: its children are in the order of their rank.
    #[prost(int32, optional, tag = "11")]
    pub child_ordering: Option<i32>,
    /// Its place among its siblings.
    #[prost(int32, optional, tag = "12")]
    pub sibling_order_rank: Option<i32>,
}

/// A thread.
#[derive(Clone, PartialEq, Message)]
pub struct ThreadDescriptor {
    /// Its process.
    #[prost(int32, optional, tag = "1")]
    pub pid: Option<i32>,
    /// It.
    #[prost(int64, optional, tag = "2")]
    pub tid: Option<i64>,
    /// Its name.
    #[prost(string, optional, tag = "5")]
    pub thread_name: Option<String>,
}

/// A number over time.
#[derive(Clone, PartialEq, Message)]
pub struct CounterDescriptor {
    /// 2: it counts.
    #[prost(int32, optional, tag = "3")]
    pub unit: Option<i32>,
}

/// Something that happened.
#[derive(Clone, PartialEq, Message)]
pub struct TrackEvent {
    /// 1 a slice begins, 2 one ends, 3 an instant, 4 a counter's value.
    #[prost(int32, optional, tag = "9")]
    pub r#type: Option<i32>,
    /// The track.
    #[prost(uint64, optional, tag = "11")]
    pub track_uuid: Option<u64>,
    /// The slice's name.
    #[prost(string, optional, tag = "23")]
    pub name: Option<String>,
    /// What it belongs to.
    #[prost(string, repeated, tag = "22")]
    pub categories: Vec<String>,
    /// What else is known of it.
    #[prost(message, repeated, tag = "4")]
    pub debug_annotations: Vec<DebugAnnotation>,
    /// A counter's value.
    #[prost(int64, optional, tag = "30")]
    pub counter_value: Option<i64>,
}

/// Something known of a slice.
#[derive(Clone, PartialEq, Message)]
pub struct DebugAnnotation {
    /// What.
    #[prost(string, optional, tag = "10")]
    pub name: Option<String>,
    /// As a number.
    #[prost(int64, optional, tag = "4")]
    pub int_value: Option<i64>,
    /// As a text.
    #[prost(string, optional, tag = "6")]
    pub string_value: Option<String>,
    /// As an address.
    #[prost(uint64, optional, tag = "7")]
    pub pointer_value: Option<u64>,
}
