//! The guests themselves: if these fail, no other guest test means anything.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::{Checks, Guest, GuestTest};
use crate::{qemu::Iommu, vm::Status};

const PASSES_THROUGH: &str = "output, files and exit status pass through whole";

/// The table.
pub const TESTS: &[GuestTest] = &[
    GuestTest {
        name: "boot-built-7.3",
        about: PASSES_THROUGH,
        kernel: "built-7.3",
        iommu: Iommu::Intel,
        tracer: false,
        run: passes_through,
    },
    GuestTest {
        name: "boot-stock-6.12",
        about: PASSES_THROUGH,
        kernel: "stock-6.12",
        iommu: Iommu::Intel,
        tracer: false,
        run: passes_through,
    },
    GuestTest {
        name: "signal",
        about: "a command killed by a signal is told from one that exits, and leaves no process behind",
        kernel: "built-7.3",
        iommu: Iommu::Intel,
        tracer: false,
        run: signal,
    },
    GuestTest {
        name: "panic",
        about: "a kernel that panics ends the run with its last words",
        kernel: "stock-6.12",
        iommu: Iommu::Intel,
        tracer: false,
        run: panic,
    },
    GuestTest {
        name: "vt-d",
        about: "the emulated VT-d is there and in use, with the edu device behind it",
        kernel: "stock-6.12",
        iommu: Iommu::Intel,
        tracer: false,
        run: vt_d,
    },
    GuestTest {
        name: "amd-vi",
        about: "the emulated AMD-Vi is there and in use",
        kernel: "built-7.3",
        iommu: Iommu::Amd,
        tracer: false,
        run: amd_vi,
    },
];

/// 10 MB on standard output, another text on standard error, status 7, and a file there and back.
fn passes_through(guest: &Guest, _: &mut Checks) -> Result<()> {
    // Bytes that a terminal would change or swallow, and no period that a lost block could hide behind.
    let mut state = 0x9e37_79b9_u32;
    let data: Vec<u8> = (0..10 << 20)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        })
        .collect();
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("data");
    fs::write(&file, &data)?;
    let outcome = guest
        .vm()
        .copy(&file, "/data")
        .script("cat /data; cp /data /tmp/back; echo only-this >&2; exit 7")
        .collect("/tmp/back")
        .collect("/nowhere")
        .run()?;
    outcome.exited(7)?;
    ensure!(outcome.stderr == b"only-this\n", "standard error is {:?}", String::from_utf8_lossy(&outcome.stderr));
    ensure!(outcome.stdout.len() == data.len(), "{} bytes of {} came through", outcome.stdout.len(), data.len());
    ensure!(outcome.stdout == data, "standard output was changed on its way");
    let back = outcome.collected.get("/tmp/back").context("the collected file is not there")?;
    ensure!(fs::read(back)? == data, "the collected file was changed on its way");
    ensure!(!outcome.collected.contains_key("/nowhere"), "a file that is not there was collected");
    ensure!(outcome.notes.iter().any(|n| n.contains("/nowhere")), "nothing says that /nowhere is missing");
    Ok(())
}

fn signal(guest: &Guest, _: &mut Checks) -> Result<()> {
    // The orphan holds standard output open: the run must not wait for it.
    let outcome = guest.vm().script("sleep 1000 & echo before; kill -SEGV $$").run()?;
    outcome.healthy()?;
    ensure!(outcome.status == Status::Signalled(11), "it ended as {:?}", outcome.status);
    ensure!(outcome.stdout == b"before\n", "standard output is {:?}", outcome.text());
    Ok(())
}

fn panic(guest: &Guest, _: &mut Checks) -> Result<()> {
    // What the command writes goes through a pipe and init to the host, and a panic waits for neither.
    let script = "echo before; for i in $(seq 100); do grep -q before /run/host/stdout && break; sleep 0.1; done; \
                  echo c > /proc/sysrq-trigger; sleep 100";
    let outcome = guest.vm().script(script).run()?;
    ensure!(matches!(outcome.status, Status::Crashed(_)), "it ended as {:?}", outcome.status);
    ensure!(outcome.console.contains("sysrq_handle_crash"), "the console lacks the trace:\n{}", outcome.console);
    ensure!(outcome.stdout == b"before\n", "what was written before the panic is lost: {:?}", outcome.text());
    Ok(())
}

fn vt_d(guest: &Guest, _: &mut Checks) -> Result<()> {
    let outcome = guest
        .vm()
        .script(
            "set -e; ls /sys/class/iommu; \
             cat /sys/bus/pci/devices/0000:00:02.0/iommu_group/type /sys/bus/pci/devices/0000:00:02.0/device",
        )
        .run()?;
    let text = outcome.success()?.text();
    // DMA or DMA-FQ: caching mode makes the kernel invalidate strictly.
    let lines: Vec<&str> = text.lines().collect();
    ensure!(
        matches!(lines.as_slice(), ["dmar0", domain, "0x11e8"] if domain.starts_with("DMA")),
        "VT-d looks like this:\n{text}"
    );
    Ok(())
}

fn amd_vi(guest: &Guest, _: &mut Checks) -> Result<()> {
    let outcome = guest.vm().script("ls /sys/class/iommu /sys/kernel/iommu_groups/0").run()?;
    outcome.success()?;
    ensure!(outcome.text().contains("ivhd0") && outcome.text().contains("devices"), "{}", outcome.text());
    Ok(())
}
