//! The overview: what happens, how fast, to whom, and what it costs to look.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{
    Scene,
    chart::sparkline,
    text::{NONE, bytes, count, maybe, rate},
};
use crate::{
    model::{
        Measure,
        span::{Owner, SpanKind, Topic},
    },
    output::{duration, nanoseconds},
    tui::state::{bins::Bins, series},
};

/// Columns before a chart.
const LABEL: u16 = 33;

/// Lines, the most important first: what does not fit is below.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, scene: &Scene<'_>) -> usize {
    let Scene { world, ui, theme, .. } = scene;
    let (window, at) = (world.window(ui), world.at(ui));
    let lately = world.lately(window);
    let mut y = area.y;
    let mut line = |buffer: &mut Buffer, label: &str, text: &str, style: Style| {
        if y >= area.bottom() {
            return;
        }
        let x = buffer.set_stringn(area.x, y, format!("{label:<13}"), usize::from(area.width), theme.strong()).0;
        buffer.set_stringn(x, y, text, usize::from(area.right().saturating_sub(x)), style);
        y += 1;
    };

    // Who sits where.
    let mut owners = [0_u64; Owner::ALL.len()];
    for life in world.lives.live().filter(|life| life.is_at(at)).chain(world.lives.gone().filter(|life| life.is_at(at)))
    {
        owners[life.owner as usize] += 1;
    }
    let text: Vec<String> =
        Owner::ALL.into_iter().map(|owner| format!("{} {}", owner.name(), count(owners[owner as usize]))).collect();
    line(buffer, "attached", &text.join("  "), Style::new());

    let open = world.model.faults_under_way().filter(|span| span.ts <= at).take(1 << 10);
    let (waiting, oldest) = open.fold((0_u64, None::<u64>), |(n, oldest), span| {
        let unanswered = matches!(&span.kind, SpanKind::Fault(fault) if fault.response.0.is_none());
        (n + u64::from(unanswered), if unanswered { Some(oldest.map_or(span.ts, |o| o.min(span.ts))) } else { oldest })
    });
    let kinds = world.sum(lately).kinds;
    let faults = kinds.get("fault");
    let text = format!(
        "{}/s  outstanding {}{}",
        rate(faults, lately.seconds()),
        count(waiting),
        oldest.map_or_else(String::new, |ts| format!(", the oldest for {}", duration(at.saturating_sub(ts))))
    );
    line(buffer, "faults", &text, if waiting > 0 { theme.warn() } else { Style::new() });

    // The question that the tool is made for.
    let now = world.latencies(lately, None);
    let whole = world.latencies(window, None);
    let told = |bins: &Bins| match bins.count() {
        0 => NONE.to_owned(),
        _ => format!("p50 {} p99 {}", maybe(bins.quantile(0.5)), maybe(bins.quantile(0.99))),
    };
    for (place, name) in [(0, "look-up"), (4, "response")] {
        let text = format!("now {}   {} {}", told(&now.0[place]), ui.span().name, told(&whole.0[place]));
        line(buffer, name, &text, Style::new());
    }
    let mirror = world.model.latencies().overall().get(Measure::Mirror).map(|histogram| {
        format!(
            "p50 {} p99 {} of {} look-ups",
            nanoseconds(histogram.value_at_quantile(0.5)),
            nanoseconds(histogram.value_at_quantile(0.99)),
            count(histogram.len())
        )
    });
    line(buffer, "mirror's own", mirror.as_deref().unwrap_or(NONE), Style::new());

    let cost = match (world.own, world.bpf_cpu) {
        (None, _) => NONE.to_owned(),
        (Some(own), bpf) => format!(
            "tool {:.1}% of a CPU, {}; BPF programs {}",
            own.cpu * 100.0,
            bytes(own.memory),
            bpf.map_or_else(|| "not measured".to_owned(), |share| format!("{:.2}%", share * 100.0))
        ),
    };
    line(buffer, "cost", &cost, Style::new());
    charts(buffer, Rect { y, height: area.bottom().saturating_sub(y), ..area }, scene, window, lately);
    usize::from(area.height)
}

/// A line for each thing that changes over time.
fn charts(buffer: &mut Buffer, area: Rect, scene: &Scene<'_>, window: series::Window, lately: series::Window) {
    let Scene { world, theme, ui, .. } = scene;
    if area.height == 0 {
        return;
    }
    let width = area.width.saturating_sub(LABEL);
    let columns = usize::from(width.max(1));
    let head = format!("{:<20}{:>6}{:>6}", "event", "/s", ui.span().name);
    buffer.set_stringn(area.x, area.y, &head, usize::from(area.width), theme.strong());
    let (sum, recent) = (world.sum(window), world.sum(lately));
    let ticks = series::columns(&world.ticks, window, columns, |sum: &mut series::Tick, tick| sum.add(tick));
    let mut lines: Vec<(String, String, String, Vec<Option<u64>>)> = Vec::new();
    let p = |share: f64| -> Vec<Option<u64>> {
        series::columns(&world.stages, window, columns, |bins: &mut Bins, stages| bins.add(&stages.0[0]))
            .into_iter()
            // A column without a fault has no latency: that is no zero.
            .map(|bins| bins.and_then(|bins| bins.quantile(share)))
            .collect()
    };
    let whole = world.latencies(window, None);
    for (name, share) in [("look-up p50", 0.5), ("look-up p99", 0.99)] {
        lines.push((name.into(), String::new(), maybe(whole.0[0].quantile(share)), p(share)));
    }
    // What happens is shown first, then what was asked for and does not.
    // What is not traced is left out: it is not known whether it happens.
    let traced = |name: &str| topic(name).is_some_and(|topic| world.traces(topic));
    let mut kinds: Vec<(&str, u64)> = sum.kinds.iter().filter(|(name, _)| traced(name)).collect();
    kinds.sort_by_key(|(_, count)| *count == 0);
    for (name, total) in kinds {
        let values = ticks.iter().map(|tick| tick.map(|tick| tick.kinds.get(name))).collect();
        lines.push((name.to_owned(), rate(recent.kinds.get(name), lately.seconds()), count(total), values));
    }
    for (y, (name, now, total, values)) in (area.y + 1..area.bottom()).zip(lines) {
        let label = format!("{name:<20}{now:>6}{total:>6}");
        let label = if name.starts_with("look-up") { format!("{name:<20}{total:>12}") } else { label };
        let none = values.iter().flatten().all(|value| *value == 0);
        buffer.set_stringn(
            area.x,
            y,
            label,
            usize::from(area.width.min(LABEL)),
            if none { theme.dim() } else { Style::new() },
        );
        if width > 0 {
            let style = if none { theme.dim() } else { theme.chart() };
            buffer.set_stringn(area.x + LABEL, y, sparkline(&values, *theme), usize::from(width), style);
        }
    }
}

/// The topic that an event belongs to, by its name; stages and losses are shown elsewhere, and sums count as their calls.
fn topic(name: &str) -> Option<Topic> {
    Some(match name {
        "attach" | "replace" | "detach" | "device_add" | "device_remove" | "domain_free" => Topic::Attach,
        "fault" | "iopf_enable" | "iopf_disable" | "dma_fault" => Topic::Fault,
        "sva_bind" | "sva_unbind" => Topic::Sva,
        "iommufd_bind" | "iommufd_unbind" | "fault_queue_destroy" => Topic::Iommufd,
        "map" | "unmap" => Topic::Dma,
        "invalidate" | "flush" => Topic::Invalidate,
        "reset_prepare" | "reset_done" => Topic::Reset,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SpanCounts;

    #[test]
    fn every_event_has_its_topic() {
        for (name, _) in SpanCounts::default().iter() {
            assert_eq!(topic(name).is_none(), ["fault_stage", "lost", "sum"].contains(&name), "{name}");
        }
    }
}
