//! Finds what turns Rust into BPF: a compiler with a `core` for the BPF target, its cargo, bpf-linker, and the LLVM
//! library that bpf-linker loads.
//!
//! Used by iommu-trace's build script and by `cargo xtask setup`, so that both mean the same.

use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

/// The version of bpf-linker that is known to work, for the messages.
pub const BPF_LINKER: &str = "0.10.3";
/// The target that the programs are built for: little-endian, as every machine with an IOMMU driver we probe.
pub const TARGET: &str = "bpfel-unknown-none";

/// A way to build BPF programs.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// Which compiler.
    pub compiler: Compiler,
    /// The linker.
    pub linker: PathBuf,
    /// Directory of the `libLLVM` that the linker loads; `None` when it was built with its own.
    pub llvm: Option<PathBuf>,
}

/// A compiler that has `core` for BPF, or can build it.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// One that comes with a ready-built `core` for the target, as Debian's `rustc-web`.
    Ready {
        /// The compiler.
        rustc: PathBuf,
        /// The cargo beside it.
        cargo: PathBuf,
    },
    /// rustup's nightly with `rust-src`, which builds `core` itself.
    Nightly {
        /// The toolchain's directory.
        sysroot: PathBuf,
    },
}

/// What is missing, and how to mend it.
#[derive(Clone, Debug, Default)]
pub struct Missing {
    /// No compiler for BPF.
    pub compiler: bool,
    /// No bpf-linker.
    pub linker: bool,
    /// No LLVM for bpf-linker.
    pub llvm: bool,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the BPF programs of iommu-trace cannot be built here:")?;
        if self.compiler {
            writeln!(f, "- no Rust compiler with `core` for {TARGET} was found. Either, on Debian 12 or newer:")?;
            writeln!(f, "      apt-get install rustc-web cargo-web libstd-rust-web-dev-bpf")?;
            writeln!(f, "  or, with rustup:")?;
            writeln!(f, "      rustup toolchain install nightly --component rust-src")?;
        }
        if self.linker {
            writeln!(f, "- bpf-linker was not found (in $BPF_LINKER, on $PATH, in ~/.cargo/bin). Install it:")?;
            writeln!(f, "      cargo install bpf-linker@{BPF_LINKER} --locked")?;
        }
        if self.llvm {
            writeln!(f, "- bpf-linker needs a libLLVM.so of version 22, as rustup's current stable toolchain has in")?;
            writeln!(f, "  its lib directory and Debian's rustc-web brings along. Install either.")?;
        }
        write!(f, "`cargo xtask setup` does all of this.")
    }
}

/// Finds a toolchain, or says what is missing.
pub fn find() -> Result<Toolchain, Missing> {
    let compiler = find_compiler();
    let linker = find_linker();
    let llvm = find_llvm(compiler.as_ref());
    match (compiler, linker) {
        (Some(compiler), Some(linker)) if llvm.is_some() => Ok(Toolchain { compiler, linker, llvm }),
        (compiler, linker) => {
            Err(Missing { compiler: compiler.is_none(), linker: linker.is_none(), llvm: llvm.is_none() })
        }
    }
}

/// Builds the BPF program `name` of a manifest for guests and machines of `arch`, and tells where the object is.
pub fn build(name: &str, manifest: &Path, arch: &str, target_dir: &Path) -> Result<PathBuf, String> {
    let toolchain = find().map_err(|missing| missing.to_string())?;
    let status = toolchain
        .cargo_build(arch, manifest)
        .args(["--bin", name, "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(target_dir)
        .status()
        .map_err(|error| format!("cannot run {:?}: {error}", toolchain.compiler))?;
    if !status.success() {
        return Err(format!("building {name} with {:?} failed: {status}", toolchain.compiler));
    }
    Ok(target_dir.join(TARGET).join("release").join(name))
}

fn find_compiler() -> Option<Compiler> {
    ready_compiler().or_else(nightly_compiler)
}

/// A rustc whose own libraries include `core` for the target, with a cargo beside it.
fn ready_compiler() -> Option<Compiler> {
    let mut candidates = vec![PathBuf::from("/usr/bin/rustc")];
    candidates.extend(on_path("rustc"));
    candidates.into_iter().find_map(|rustc| {
        let libdir = stdout(Command::new(&rustc).args(["--print", "target-libdir", "--target", TARGET]))?;
        let has_core = Path::new(&libdir)
            .read_dir()
            .ok()?
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"));
        let cargo = rustc.with_file_name("cargo");
        (has_core && cargo.exists()).then_some(Compiler::Ready { rustc, cargo })
    })
}

fn nightly_compiler() -> Option<Compiler> {
    let sysroot =
        PathBuf::from(stdout(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))?);
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists().then_some(Compiler::Nightly { sysroot })
}

fn find_linker() -> Option<PathBuf> {
    if let Some(linker) = env::var_os("BPF_LINKER") {
        return Some(PathBuf::from(linker)).filter(|linker| linker.exists());
    }
    on_path("bpf-linker").or_else(|| {
        [tools_dir().map(|dir| dir.join("bin")), cargo_home().map(|dir| dir.join("bin"))]
            .into_iter()
            .flatten()
            .map(|dir| dir.join("bpf-linker"))
            .find(|linker| linker.exists())
    })
}

/// Where `cargo xtask setup` puts tools of its own.
pub fn tools_dir() -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute())
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join("iommu-trace/tools"))
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
}

fn find_llvm(compiler: Option<&Compiler>) -> Option<PathBuf> {
    let mut dirs: Vec<PathBuf> = Vec::new();
    if let Some(paths) = env::var_os("LD_LIBRARY_PATH") {
        dirs.extend(env::split_paths(&paths));
    }
    if let Some(Compiler::Nightly { sysroot }) = compiler {
        dirs.push(sysroot.join("lib"));
    }
    dirs.extend(stdout(Command::new("rustc").args(["--print", "sysroot"])).map(|dir| Path::new(&dir).join("lib")));
    dirs.extend(
        ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib/llvm-22/lib", "/usr/lib64", "/usr/lib"]
            .map(PathBuf::from),
    );
    dirs.into_iter().find(|dir| {
        dir.read_dir().is_ok_and(|entries| {
            entries.flatten().any(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                name.starts_with("libLLVM.so.22") || name.starts_with("libLLVM-22")
            })
        })
    })
}

fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}

fn stdout(command: &mut Command) -> Option<String> {
    // A build script runs with cargo's idea of the toolchain in its environment; the question is about another one.
    let output = command.env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Toolchain {
    /// The cargo command that builds with this toolchain, in a clean environment, up to and with the target.
    pub fn cargo_build(&self, arch: &str, manifest: &Path) -> Command {
        let mut command = match &self.compiler {
            Compiler::Ready { rustc, cargo } => {
                let mut command = Command::new(cargo);
                command.env("RUSTC", rustc).arg("build");
                command
            }
            Compiler::Nightly { sysroot } => {
                let mut command = Command::new(sysroot.join("bin/cargo"));
                command.env("RUSTC", sysroot.join("bin/rustc")).args(["build", "-Z", "build-std=core"]);
                command
            }
        };
        // What cargo set for the outer build would mislead the inner one; what the user set for the network stays.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            let outer =
                ["CARGO_CFG_", "CARGO_PKG_", "CARGO_FEATURE_", "CARGO_MANIFEST_", "CARGO_TARGET_", "CARGO_BUILD_"]
                    .iter()
                    .any(|prefix| text.starts_with(prefix))
                    || matches!(
                        &*text,
                        "CARGO"
                            | "CARGO_MAKEFLAGS"
                            | "CARGO_PRIMARY_PACKAGE"
                            | "CARGO_CRATE_NAME"
                            | "CARGO_INCREMENTAL"
                            | "RUSTFLAGS"
                            | "RUSTDOC"
                            | "RUSTDOCFLAGS"
                            | "RUSTC_WRAPPER"
                            | "RUSTC_WORKSPACE_WRAPPER"
                            | "RUSTC_LINKER"
                            | "RUSTUP_TOOLCHAIN"
                            | "OUT_DIR"
                            | "TARGET"
                            | "HOST"
                            | "PROFILE"
                            | "OPT_LEVEL"
                            | "DEBUG"
                            | "NUM_JOBS"
                    );
            if outer {
                command.env_remove(&name);
            }
        }
        let mut flags = vec![
            format!("--cfg=bpf_target_arch=\"{arch}\""),
            "-Cdebuginfo=2".to_owned(),
            "-Clink-arg=--btf".to_owned(),
            // A program that is called many thousand times a second: what is called out of line has its captures in memory, and cannot
            // know what each caller does.
            "-Clink-arg=--llvm-args=--inline-threshold=100000".to_owned(),
            format!("-Clinker={}", self.linker.display()),
        ];
        // The names of source files are in the object; where they lie must not be.
        let workspace = manifest.ancestors().nth(2).and_then(|dir| dir.canonicalize().ok());
        for (dir, name) in [(cargo_home(), "cargo"), (workspace, "iommu-trace")] {
            flags.extend(dir.map(|dir| format!("--remap-path-prefix={}=/{name}", dir.display())));
        }
        command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        // aya-ebpf uses `asm_experimental_arch`, which a stable compiler wants to be told.
        command.env("RUSTC_BOOTSTRAP", "1");
        if let Some(llvm) = &self.llvm {
            let mut paths = OsString::from(llvm);
            if let Some(more) = env::var_os("LD_LIBRARY_PATH") {
                paths.push(":");
                paths.push(more);
            }
            command.env("LD_LIBRARY_PATH", paths);
        }
        command.args(["--release", "--target", TARGET]);
        command
    }
}
