//! /etc/fstab: which of the disk's volumes belong where below its root.

use super::facts::Volume;
use crate::disk::filesystem::Kind;

/// A line worth mounting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub volume: &'a Volume,
    pub kind: Kind,
    /// Absolute, without `..`.
    pub target: String,
    /// Only what says which part of the file system is meant.
    pub options: String,
}

/// The lines that name one of `volumes`, outer folders first. The root's own line is not among them.
pub(super) fn lines<'a>(fstab: &str, volumes: &'a [Volume]) -> Vec<Line<'a>> {
    let mut lines: Vec<Line<'a>> = fstab.lines().filter_map(|l| line(l, volumes)).collect();
    lines.sort_by_key(|l| l.target.matches('/').count());
    lines.dedup_by(|a, b| a.target == b.target);
    lines
}

fn line<'a>(text: &str, volumes: &'a [Volume]) -> Option<Line<'a>> {
    let mut fields = text.split_whitespace();
    let (source, target) = (fields.next()?, fields.next()?);
    let (_, options) = (fields.next()?, fields.next().unwrap_or("defaults"));
    let target = target.trim_end_matches('/');
    let plain = target.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
    if source.starts_with('#') || !target.starts_with('/') || !plain {
        return None;
    }
    let volume = volumes.iter().find(|v| is(source, v))?;
    let kind = volume.filesystem.as_ref()?.kind;
    let usable = kind.can_be_root() || kind == Kind::Vfat;
    let part = |o: &&str| kind == Kind::Btrfs && (o.starts_with("subvol=") || o.starts_with("subvolid="));
    let options: Vec<&str> = options.split(',').filter(part).collect();
    usable.then(|| Line { volume, kind, target: target.into(), options: options.join(",") })
}

/// Whether a line's first field means this volume.
fn is(source: &str, volume: &Volume) -> bool {
    let filesystem = volume.filesystem.as_ref();
    let same = |a: &str, b: Option<&String>| b.is_some_and(|b| a.trim_matches('"').eq_ignore_ascii_case(b));
    let (tag, value) = match source.split_once('=') {
        Some(pair) => pair,
        None => match source.strip_prefix("/dev/disk/by-").and_then(|s| s.split_once('/')) {
            Some(pair) => pair,
            // Other names of disks differ from machine to machine; the number of the partition does not.
            None => return volume.number.is_some() && partition_number(source) == volume.number,
        },
    };
    match tag.to_ascii_lowercase().as_str() {
        "uuid" => same(value, filesystem.and_then(|f| f.uuid.as_ref())),
        "label" => same(value, filesystem.and_then(|f| f.label.as_ref())),
        "partuuid" => same(value, volume.partition_uuid.as_ref()),
        "partlabel" => same(value, volume.partition_label.as_ref()),
        _ => false,
    }
}

fn partition_number(device: &str) -> Option<u32> {
    let name = device.strip_prefix("/dev/")?;
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    match name.get(..2)? {
        "sd" | "vd" | "hd" => digits.parse().ok(),
        "nv" | "mm" => name.rsplit_once('p')?.1.parse().ok(),
        "xv" => digits.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::filesystem::Filesystem;

    fn volume(number: u32, kind: Kind, label: &str) -> Volume {
        Volume {
            device: format!("/dev/vda{number}"),
            number: Some(number),
            offset: 0,
            size: 0,
            kind: None,
            partition_uuid: Some(format!("0000000{number}-aa")),
            partition_label: None,
            filesystem: Some(Filesystem {
                kind,
                label: Some(label.into()),
                uuid: Some(format!("1234-000{number}")),
                size: 0,
                dirty: false,
            }),
        }
    }

    #[test]
    fn lines_find_their_volumes() {
        let volumes = [
            volume(1, Kind::Ext4, "root"),
            volume(2, Kind::Vfat, "ESP"),
            volume(3, Kind::Btrfs, "data"),
            volume(4, Kind::Swap, "swap"),
        ];
        let fstab = "# a comment\n\
            LABEL=root / ext4 defaults 0 1\n\
            UUID=1234-0002 /boot/efi vfat umask=0077 0 1\n\
            /dev/disk/by-partuuid/00000003-AA /home btrfs noatime,subvol=@home 0 0\n\
            /dev/sda3 /var/ btrfs subvol=@var\n\
            LABEL=swap none swap sw 0 0\n\
            LABEL=data /../etc btrfs defaults 0 0\n\
            server:/x /nfs nfs defaults 0 0\n\
            tmpfs /tmp tmpfs defaults 0 0\n";
        let found: Vec<(String, Option<u32>, String)> =
            lines(fstab, &volumes).into_iter().map(|l| (l.target, l.volume.number, l.options)).collect();
        let line =
            |target: &str, number, options: &str| (target.to_owned(), Some(number), options.to_owned());
        assert_eq!(
            found,
            [line("/home", 3, "subvol=@home"), line("/var", 3, "subvol=@var"), line("/boot/efi", 2, "")]
        );
    }
}
