//! Operations in a few words, for messages.

use kiln_protocol::message::{Operation, Packed, PowerAction};

/// The longest description, in bytes.
const LIMIT: usize = 200;

/// `exec apt-get`, `put /etc/hosts`: on one line and short, whatever is in it. Arguments of a command
/// may be secrets and are not told.
pub fn operation(operation: &Operation) -> String {
    use Operation as O;
    let text = match operation {
        O::Exec(exec) => format!("exec {}", exec.argv.first().map_or("", String::as_str)),
        O::Put(put) => format!("put {}", put.path),
        O::Get { path, .. } => format!("get {path}"),
        O::WriteAt { path, offset } => format!("write {path} at {offset}"),
        O::Append { path } => format!("append to {path}"),
        O::Connect { port, .. } => format!("connect to port {port} of the guest's own"),
        O::Unpack(unpack) => match unpack.items.first() {
            Some(Packed::File { path, .. } | Packed::Folder { path, .. } | Packed::Symlink { path, .. }) => {
                format!("unpack {} items from {path} on", unpack.items.len())
            }
            None => "unpack nothing".into(),
        },
        O::Tree(tree) => format!("walk {}", tree.root),
        O::Stat { path, .. } => format!("stat {path}"),
        O::Hash { path, .. } => format!("hash {path}"),
        O::List { path, .. } => format!("list {path}"),
        O::Copy { source, target, .. } => format!("copy {source} to {target}"),
        O::Rename { source, target, .. } => format!("rename {source} to {target}"),
        O::MakeFolder { path, .. } => format!("make the folder {path}"),
        O::Remove { path, .. } => format!("remove {path}"),
        O::Symlink { path, target, .. } => format!("link {path} to {target}"),
        O::Chmod { path, mode, .. } => format!("chmod {mode:o} {path}"),
        O::Chown { path, owner, .. } => format!("chown {owner} {path}"),
        O::Facts => "ask for facts".into(),
        O::Devices => "list block devices".into(),
        O::Space { path } => format!("ask for the space of {path}"),
        O::Freeze { .. } => "hold the disks".into(),
        O::Thaw => "let the disks go".into(),
        O::Power { action: PowerAction::Reboot } => "ask the guest to reboot".into(),
        O::Power { action: PowerAction::PowerOff } => "ask the guest to power off".into(),
        O::LoadModules { names } => format!("load modules {}", names.join(" ")),
        O::RereadPartitions { device } => format!("read the partition table of {device}"),
        O::Mount { source, target, .. } => format!("mount {source} on {target}"),
        O::Unmount { target } => format!("unmount {target}"),
        O::EndProcesses => "end all processes".into(),
        O::Network { interface, .. } => format!("bring up the network interface {interface}"),
        O::GrowFilesystem { target } => format!("grow the file system on {target}"),
        O::Trim { target } => format!("trim the file system on {target}"),
        O::ChangeRoot { path } => format!("make {} the root", path.as_deref().unwrap_or("/")),
    };
    let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.len() > LIMIT {
        text.truncate(text.floor_char_boundary(LIMIT));
        text.push_str(" ...");
    }
    text
}
