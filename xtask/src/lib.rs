//! Builds, kernels, virtual machines and tests of iommu-trace.
//!
//! One file a topic. What decides (parsing, verdicts, layouts) is pure and tested beside itself; what touches the
//! machine (apt, cargo, make, QEMU) goes through [`command`], so that an error always names what was run.

pub mod accel;
pub mod apt;
pub mod arch;
pub mod bench;
pub mod busybox;
pub mod cache;
pub mod cargo;
pub mod cli;
pub mod command;
pub mod console;
pub mod cross;
pub mod debian;
pub mod demo;
pub mod dist;
pub mod emulator;
pub mod grafana;
pub mod guest_tests;
pub mod initramfs;
pub mod kernel;
pub mod matrix;
pub mod modules;
pub mod picture;
pub mod programs;
pub mod progress;
pub mod prometheus;
pub mod prototypes;
pub mod qemu;
pub mod selftests;
pub mod setup;
pub mod test;
pub mod tmux;
pub mod toolchain;
pub mod vm;
pub mod workspace;
