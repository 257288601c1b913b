//! The JSON line of a page fault, written field by field: byte for byte what serde makes of the span, at a tenth of its cost. Page faults
//! are the many; everything else is left to serde.

use serde::Serialize;

use crate::{
    event::{Ptr, ResponseCode, Text},
    model::span::{Answerer, FaultSpan, Response, Span},
};

/// Appends the object of a fault, without its closing brace.
pub(super) fn open(out: &mut Vec<u8>, span: &Span, fault: &FaultSpan) {
    let Span { ts, kind: _, cpu, pid, tid, comm, stack: _ } = span;
    let FaultSpan {
        group,
        device,
        pasid,
        grpid,
        addr,
        perm,
        flags,
        last,
        requests,
        handle,
        device_id,
        delivered_id,
        cookie,
        ret,
        lookups,
        interrupt_ns,
        lookup_ns,
        device_id_ns,
        handler_ns,
        delivered_ns,
        response_ns,
        response,
        answered_by,
        freed_ns,
        complete,
    } = fault;
    macro_rules! fields {
        ($($before:literal $value:expr;)+) => {
            $(out.extend_from_slice($before.as_bytes()); $value.write(out);)+
        };
    }
    fields! {
        "{\"ts\":" ts;
        ",\"event\":\"fault\",\"group\":" group;
        ",\"device\":" device;
        ",\"pasid\":" pasid;
        ",\"grpid\":" grpid;
        ",\"addr\":" Ptr(*addr);
        ",\"perm\":" perm;
        ",\"flags\":" flags;
        ",\"last\":" last;
        ",\"requests\":" requests;
        ",\"handle\":" handle;
        ",\"device_id\":" device_id;
        ",\"delivered_id\":" delivered_id;
        ",\"cookie\":" cookie;
        ",\"ret\":" ret;
        ",\"lookups\":" lookups;
        ",\"interrupt_ns\":" interrupt_ns;
        ",\"lookup_ns\":" lookup_ns;
        ",\"device_id_ns\":" device_id_ns;
        ",\"handler_ns\":" handler_ns;
        ",\"delivered_ns\":" delivered_ns;
        ",\"response_ns\":" response_ns;
        ",\"response\":" response;
        ",\"answered_by\":" answered_by;
        ",\"freed_ns\":" freed_ns;
        ",\"complete\":" complete;
        ",\"cpu\":" cpu;
        ",\"pid\":" pid;
        ",\"tid\":" tid;
        ",\"comm\":" comm;
    }
}

/// A value of JSON.
trait Write {
    fn write(&self, out: &mut Vec<u8>);
}

/// What is rare, by serde.
fn serialize(out: &mut Vec<u8>, value: &impl Serialize) {
    // Writing to memory does not fail, and these are texts.
    let _ = serde_json::to_writer(out, value);
}

impl<T: Write> Write for Option<T> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Some(value) => value.write(out),
            None => out.extend_from_slice(b"null"),
        }
    }
}

macro_rules! integers {
    ($($integer:ty),+) => {
        $(impl Write for $integer {
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(itoa::Buffer::new().format(*self).as_bytes());
            }
        })+
    };
}
integers!(u32, u64, i64);

impl Write for bool {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if *self { b"true" } else { b"false" });
    }
}

impl Write for Ptr {
    fn write(&self, out: &mut Vec<u8>) {
        // Put together here and appended once, which asks once whether there is room.
        let mut text = *b"\"0x0123456789abcdef\"";
        let digits = (u64::BITS - self.0.leading_zeros()).div_ceil(4).max(1) as usize;
        let mut rest = self.0;
        for digit in text[3..3 + digits].iter_mut().rev() {
            *digit = b"0123456789abcdef"[(rest & 0xf) as usize];
            rest >>= 4;
        }
        text[3 + digits] = b'"';
        out.extend_from_slice(&text[..digits + 4]);
    }
}

impl<const N: usize> Write for Text<N> {
    fn write(&self, out: &mut Vec<u8>) {
        let text = self.as_bytes();
        if text.iter().all(|&byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
            out.push(b'"');
            out.extend_from_slice(text);
            out.push(b'"');
        } else {
            serialize(out, self);
        }
    }
}

impl Write for Response {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self.0 {
            None => b"\"none\"",
            Some(ResponseCode::Success) => b"\"success\"",
            Some(ResponseCode::Invalid) => b"\"invalid\"",
            Some(ResponseCode::Failure) => b"\"failure\"",
            Some(ResponseCode::Other(_)) => return serialize(out, self),
        });
    }
}

impl Write for Answerer {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Answerer::User => out.extend_from_slice(b"\"user\""),
            other => serialize(out, other),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        event::{Comm, Name, Task},
        model::span::SpanKind,
    };

    fn same(span: &Span) -> (String, String) {
        let SpanKind::Fault(fault) = &span.kind else { unreachable!("this is a fault") };
        let mut ours = Vec::new();
        open(&mut ours, span, fault);
        ours.push(b'}');
        (String::from_utf8(ours).unwrap(), serde_json::to_string(span).unwrap())
    }

    fn fault(numbers: &[u64], some: u32, names: &[u8]) -> Span {
        let number = |at: usize| numbers[at % numbers.len()];
        let short = |at: usize| number(at) as u32;
        let if_some = |at: u32, value: u64| (some >> at & 1 != 0).then_some(value);
        let if_short = |at: u32, value: u32| (some >> at & 1 != 0).then_some(value);
        let mut name = [0; 32];
        name[..names.len().min(31)].copy_from_slice(&names[..names.len().min(31)]);
        let mut comm = [0; 16];
        comm[..names.len().min(15)].copy_from_slice(&names[..names.len().min(15)]);
        let answerers = [
            Answerer::User,
            Answerer::Automatic,
            Answerer::QueueDestroy,
            Answerer::QueueRemove,
            Answerer::Report,
            Answerer::Handler,
        ];
        let fault = FaultSpan {
            group: if_short(0, short(0)),
            device: Name::from_kernel(name),
            pasid: if_short(1, short(1)),
            grpid: short(2),
            addr: number(3),
            perm: short(4),
            flags: short(5),
            last: some >> 2 & 1 != 0,
            requests: if_short(3, short(6)),
            handle: if_some(4, number(7)).map(Ptr),
            device_id: if_short(5, short(8)),
            delivered_id: if_short(6, short(9)),
            cookie: if_short(7, short(10)),
            ret: if_some(8, number(11)).map(u64::cast_signed),
            lookups: short(12),
            interrupt_ns: if_some(9, number(13)),
            lookup_ns: if_some(10, number(14)),
            device_id_ns: if_some(11, number(15)),
            handler_ns: if_some(12, number(16)),
            delivered_ns: if_some(13, number(17)),
            response_ns: if_some(14, number(18)),
            response: Response(if_short(15, short(19) % 5).map(ResponseCode::from_raw)),
            answered_by: if_some(16, number(20)).map(|number| answerers[number as usize % answerers.len()]),
            freed_ns: if_some(17, number(21)),
            complete: some >> 18 & 1 != 0,
        };
        let task = Task { cpu: short(22), pid: short(23), tid: short(24), comm: Comm::from_kernel(comm) };
        Span::new(number(25), SpanKind::Fault(fault), &task, None)
    }

    #[test]
    fn numbers_at_their_ends_are_written_as_serde_does() {
        for numbers in [[0; 26], [u64::MAX; 26], [1 << 63; 26], [9; 26], [16; 26]] {
            for some in [0, u32::MAX] {
                let (ours, serde) = same(&fault(&numbers, some, b"0000:00:02.0"));
                assert_eq!(ours, serde);
            }
        }
    }

    proptest! {
        #[test]
        fn every_fault_is_written_as_serde_does(
            numbers in prop::collection::vec(any::<u64>().prop_map(|n| n >> (n & 63)), 26),
            some: u32,
            names in prop_oneof![prop::collection::vec(any::<u8>(), 0..32), "[ -~]{0,31}".prop_map(String::into_bytes)],
        ) {
            let (ours, serde) = same(&fault(&numbers, some, &names));
            prop_assert_eq!(ours, serde);
        }
    }
}
