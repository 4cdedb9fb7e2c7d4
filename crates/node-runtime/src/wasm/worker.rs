//! The process of a WebAssembly container: `wasm-worker`.
//!
//! Descriptor 3 is the compiled module, 4 and on are the directories it may use; environment and outputs are the process'
//! own, so the shim treats it like any program. SIGTERM keeps its default: it ends the worker.
//!
//! What a module may touch is decided by the engine, and once more by the kernel: see [`confine`].

mod confine;
mod limits;

use std::{ffi::OsString, fs::File, os::fd::FromRawFd, path::Path, process::ExitCode};

use node_shim::state::OpenFile;
use wasmtime::{
    Engine, Linker, Module, Store,
    component::{Component, Linker as ComponentLinker, ResourceTable},
};
use wasmtime_wasi::{
    FsPerms, I32Exit, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView,
    p1::{self, WasiP1Ctx},
    p2::{self, bindings::sync::Command},
};

use self::{
    confine::{NOBODY, User},
    limits::Allowance,
};
use super::{Format, detect, engine::engine, folders};
use crate::ContainerSpec;

/// The compiled module.
const ARTEFACT_FD: i32 = 3;

/// The first folder.
const FOLDERS_FD: i32 = 4;

/// As a shell reports a program that called abort().
const EXIT_TRAP: u8 = 134;

/// The worker's command line.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    component: bool,
    user: User,
    memory_bytes_max: Option<usize>,
    /// Path in the module's eyes, and whether it may write.
    folders: Vec<(String, bool)>,
    argv: Vec<String>,
}

/// The worker's own command line for a container.
pub(super) fn arguments(spec: &ContainerSpec, guest_argv: Vec<String>) -> Vec<String> {
    let mut args = vec!["selvedge".to_owned(), "wasm-worker".to_owned(), format_argument(&guest_argv)];
    let uid = spec.run_as_user.unwrap_or(NOBODY);
    let gid = spec.run_as_group.or(spec.run_as_user).unwrap_or(NOBODY);
    args.extend(["--user".to_owned(), uid.to_string(), "--group".to_owned(), gid.to_string()]);
    for group in &spec.supplemental_groups {
        args.extend(["--also".to_owned(), group.to_string()]);
    }
    if let Some(bytes) = spec.limits.memory_bytes {
        args.extend(["--memory".to_owned(), bytes.to_string()]);
    }
    for mount in folders(spec) {
        let option = if mount.is_read_only() { "--read" } else { "--write" };
        args.extend([option.to_owned(), mount.container_path.display().to_string()]);
    }
    args.push("--".to_owned());
    args.extend(guest_argv);
    args
}

/// That of another module in the same container, by the container's own: user, limit and directories are the same.
pub(super) fn arguments_of_command(container: &[String], guest_argv: Vec<String>) -> Vec<String> {
    // No value of an option is `--`: they are numbers and absolute paths.
    let own = container.iter().take_while(|arg| *arg != "--");
    let mut args: Vec<String> = own.cloned().collect();
    if let Some(format) = args.get_mut(2) {
        *format = format_argument(&guest_argv);
    }
    args.push("--".to_owned());
    args.extend(guest_argv);
    args
}

fn format_argument(guest_argv: &[String]) -> String {
    let is_component = guest_argv.first().is_some_and(|path| detect(Path::new(path)) == Ok(Format::Component));
    if is_component { "component" } else { "module" }.to_owned()
}

/// What the worker needs open, in the order of its descriptors.
pub(super) fn open_files(artefact: &Path, spec: &ContainerSpec) -> Vec<OpenFile> {
    let directories = folders(spec).map(|mount| OpenFile::Directory(mount.clone()));
    std::iter::once(OpenFile::File(artefact.to_owned())).chain(directories).collect()
}

/// Entry of the hidden subcommand `wasm-worker`. Exit code: the module's own; 134 after a trap, which is told on stderr.
pub fn wasm_worker_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = args.into_iter().map(|arg| arg.to_string_lossy().into_owned());
    let result = parse(args).and_then(|options| run(&options));
    match result {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(EXIT_TRAP)
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let usage =
        || "this subcommand is run by the node itself: wasm-worker module|component [options] -- argv".to_owned();
    let component = match args.next().as_deref() {
        Some("component") => true,
        Some("module") => false,
        _ => return Err(usage()),
    };
    let mut options = Options {
        component,
        user: User { uid: NOBODY, gid: NOBODY, groups: Vec::new() },
        memory_bytes_max: None,
        folders: Vec::new(),
        argv: Vec::new(),
    };
    while let Some(option) = args.next() {
        if option == "--" {
            options.argv = args.collect();
            return Ok(options);
        }
        let value = args.next().ok_or_else(usage)?;
        let id = || value.parse().map_err(|_| usage());
        match option.as_str() {
            "--user" => options.user.uid = id()?,
            "--group" => options.user.gid = id()?,
            "--also" => options.user.groups.push(id()?),
            "--memory" => options.memory_bytes_max = Some(value.parse().map_err(|_| usage())?),
            "--read" => options.folders.push((value, false)),
            "--write" => options.folders.push((value, true)),
            _ => return Err(usage()),
        }
    }
    Err(usage())
}

struct ComponentState {
    wasi: WasiCtx,
    table: ResourceTable,
    limits: Allowance,
}

impl WasiView for ComponentState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

struct ModuleState {
    wasi: WasiP1Ctx,
    limits: Allowance,
}

fn run(options: &Options) -> Result<u8, String> {
    let engine = engine()?;
    // SAFETY: the shim hands the artefact on as this descriptor, and nothing else here uses it.
    let artefact = unsafe { File::from_raw_fd(ARTEFACT_FD) };
    let mut wasi = WasiCtxBuilder::new();
    wasi.inherit_stdio().inherit_env().args(&options.argv);
    // The module is all this process does: nothing else waits while it reads a file.
    wasi.allow_blocking_current_thread(true);
    for (number, (path, writable)) in options.folders.iter().enumerate() {
        let perms = if *writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
        // By its descriptor: the directories above may be closed to this user.
        wasi.preopened_dir(format!("/proc/self/fd/{}", FOLDERS_FD + number as i32), path, perms)
            .map_err(|error| format!("failed to open volume {path}: {error:#}"))?;
    }
    confine::leave(&options.user)
        .map_err(|error| format!("failed to become user {} (group {}): {error}", options.user.uid, options.user.gid))?;
    let limits = Allowance::new(options.memory_bytes_max);
    if options.component {
        run_component(&engine, artefact, wasi, limits)
    } else {
        run_module(&engine, artefact, wasi, limits)
    }
}

/// Exit code of what has ended, or what is written of it when it ended by a trap.
fn exit_code(result: wasmtime::Result<u8>, limits: &Allowance) -> Result<u8, String> {
    result.or_else(|error| match error.downcast_ref::<I32Exit>() {
        Some(I32Exit(code)) => Ok(*code as u8),
        None => {
            let note = limits.note().map(|note| format!("\nnote: {note}")).unwrap_or_default();
            Err(format!("error: {error:?}{note}"))
        }
    })
}

fn run_component(engine: &Engine, artefact: File, mut wasi: WasiCtxBuilder, limits: Allowance) -> Result<u8, String> {
    let state = ComponentState { wasi: wasi.build(), table: ResourceTable::new(), limits };
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.limits);
    let result = call_component(engine, &mut store, artefact);
    exit_code(result, &store.data().limits)
}

fn call_component(engine: &Engine, store: &mut Store<ComponentState>, artefact: File) -> wasmtime::Result<u8> {
    let mut code = Vec::new();
    std::io::Read::read_to_end(&mut { artefact }, &mut code)?;
    // SAFETY: `wasm-compile` wrote it into a directory of ours alone, with this engine, and the agent has checked its digest.
    let component = unsafe { Component::deserialize(engine, &code) }?;
    drop(code);
    let mut linker = ComponentLinker::new(engine);
    p2::add_to_linker_sync(&mut linker)?;
    confine::filter()?;
    let command = Command::instantiate(&mut *store, &component, &linker)?;
    let result = command.wasi_cli_run().call_run(&mut *store)?;
    Ok(u8::from(result.is_err()))
}

fn run_module(engine: &Engine, artefact: File, mut wasi: WasiCtxBuilder, limits: Allowance) -> Result<u8, String> {
    let mut store = Store::new(engine, ModuleState { wasi: wasi.build_p1(), limits });
    store.limiter(|state| &mut state.limits);
    let result = call_module(engine, &mut store, artefact);
    exit_code(result, &store.data().limits)
}

fn call_module(engine: &Engine, store: &mut Store<ModuleState>, artefact: File) -> wasmtime::Result<u8> {
    // SAFETY: `wasm-compile` wrote it into a directory of ours alone, with this engine, and the agent has checked its digest.
    let module = unsafe { Module::deserialize_open_file(engine, artefact) }?;
    let mut linker = Linker::new(engine);
    p1::add_to_linker_sync(&mut linker, |state: &mut ModuleState| &mut state.wasi)?;
    confine::filter()?;
    let instance = linker.instantiate(&mut *store, &module)?;
    instance.get_typed_func::<(), ()>(&mut *store, "_start")?.call(&mut *store, ())?;
    Ok(0)
}

#[cfg(test)]
mod tests;
