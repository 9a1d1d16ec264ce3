//! Which module does what, and in which modes.

use std::sync::Arc;

use kiln_protocol::message::{ErrorKind, FromAgent, Mode, Operation, Reply};

use crate::error::{Outcome, failed};
use crate::request::Request;
use crate::{
    connect, copy, devices, exec, facts, files, filesystem, freeze, hash, modules, network, power, transfer,
    tree, unpack,
};

/// The last message of a request, and what to do once it is sent.
pub struct Answer {
    pub message: FromAgent,
    pub afterwards: Option<Box<dyn FnOnce()>>,
}

pub fn perform(request: &Arc<Request>, operation: Operation, mode: Mode) -> Answer {
    let mut afterwards: Option<Box<dyn FnOnce()>> = None;
    let outcome = match operation {
        Operation::Exec(exec) => exec::run(request, exec, mode).map(FromAgent::Exited),
        Operation::Power { action } => power::prepare(action, mode).map(|go| {
            afterwards = Some(Box::new(go));
            FromAgent::Done(Reply::Nothing)
        }),
        other => reply(request, other, mode).map(FromAgent::Done),
    };
    Answer { message: outcome.unwrap_or_else(FromAgent::Failed), afterwards }
}

fn reply(request: &Request, operation: Operation, mode: Mode) -> Outcome<Reply> {
    use Operation as O;
    match operation {
        O::Exec(_) | O::Power { .. } => unreachable!("performed above"),
        O::Put(put) => transfer::put(request, &put),
        O::Get { path, offset, length } => transfer::get(request, &path, offset, length),
        O::WriteAt { path, offset } => transfer::write_at(request, &path, offset),
        O::Append { path } => transfer::append(request, &path),
        O::Connect { address, port } => connect::to(request, &address, port),
        O::Unpack(unpack) => unpack::unpack(request, &unpack),
        O::Tree(tree) => tree::send(request, &tree),
        O::List { path, recursive, after, limit } => {
            tree::list(request, &path, recursive, after.as_deref(), limit)
        }
        O::Stat { path, follow } => files::stat(&path, follow),
        O::Hash { path, algorithm } => hash::file(request, &path, algorithm),
        O::Copy { source, target, recursive, overwrite } => {
            copy::copy(request, &source, &target, recursive, overwrite)
        }
        O::Rename { source, target, overwrite } => copy::rename(request, &source, &target, overwrite),
        O::MakeFolder { path, mode, parents, owner, group } => {
            files::make_folder(&path, mode, parents, owner.as_deref(), group.as_deref())
        }
        O::Remove { path, recursive } => files::remove(&path, recursive),
        O::Symlink { path, target, replace } => files::symlink(&path, &target, replace),
        O::Chmod { path, mode, recursive } => files::chmod(request, &path, mode, recursive),
        O::Chown { path, owner, group, recursive } => {
            files::chown(request, &path, &owner, group.as_deref(), recursive)
        }
        O::Facts => Ok(Reply::Facts(Box::new(facts::facts()))),
        O::Devices => devices::devices(),
        O::Space { path } => filesystem::space(&path),
        O::Freeze { limit_ms } => freeze::freeze(limit_ms, mode),
        O::Thaw => freeze::thaw(),
        other => appliance(other, mode),
    }
}

/// These change the system itself, which on any other is not ours to change.
fn appliance(operation: Operation, mode: Mode) -> Outcome<Reply> {
    use Operation as O;
    if mode != Mode::Appliance {
        return Err(failed(ErrorKind::Unsupported, "only kiln's appliance does this"));
    }
    match operation {
        O::LoadModules { names } => modules::load(&names),
        O::RereadPartitions { device } => devices::reread_partitions(&device),
        O::Mount { source, target, filesystem, options, read_only } => {
            filesystem::mount(&source, &target, &filesystem, &options, read_only)
        }
        O::Unmount { target } => filesystem::unmount(&target),
        O::EndProcesses => power::end_processes().map(|()| Reply::Nothing),
        O::Network { interface, address } => network::bring_up(&interface, address),
        O::GrowFilesystem { target } => filesystem::grow(&target),
        O::Trim { target } => filesystem::trim(&target),
        O::ChangeRoot { path: Some(path) } => filesystem::change_root(&path),
        O::ChangeRoot { path: None } => filesystem::leave_root().map(|()| Reply::Nothing),
        _ => unreachable!("performed before"),
    }
}
