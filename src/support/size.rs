//! Sizes as people write them: `20GiB`, `500MiB`.

use std::fmt;
use std::str::FromStr;

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

impl FromStr for Size {
    type Err = String;
    fn from_str(s: &str) -> Result<Size, String> {
        let wrong = || format!("`{s}` is no size: 20GiB, 500MiB, 0B");
        let (number, shift) =
            UNITS.iter().find_map(|(unit, shift)| Some((s.strip_suffix(unit)?, shift))).ok_or_else(wrong)?;
        let number = number.trim_end();
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
        Ok(Size(bytes.ok_or_else(|| format!("`{s}` is more than any disk has"))?))
    }
}

/// A guest's memory in MiB, as people write it: `512`, `512M`, `1G`, `1GiB`.
pub fn memory(text: &str) -> Result<u64, String> {
    let (number, shift) = [("GiB", 10), ("G", 10), ("MiB", 0), ("M", 0)]
        .into_iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?.trim_end(), shift)))
        .unwrap_or((text, 0));
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let mib = if digits { number.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)) } else { None };
    match mib {
        Some(mib) if MEMORY.contains(&mib) => Ok(mib),
        Some(mib) => Err(format!("{mib} MiB: a guest has from {} to {} MiB", MEMORY.start(), MEMORY.end())),
        None => Err(format!("`{text}` is no memory: 512 (MiB), 512M, 1G, 1GiB")),
    }
}

const MEMORY: std::ops::RangeInclusive<u64> = 128..=1 << 20;

/// `1 step`, `2 steps`.
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

impl fmt::Display for Size {
    /// Roughly: three digits say enough.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, shift) = UNITS.iter().find(|(_, shift)| self.0 >> shift > 0).copied().unwrap_or(("B", 0));
        match self.0 >> shift {
            whole if whole < 10 && shift > 0 => {
                write!(f, "{:.1} {unit}", self.0 as f64 / (1u64 << shift) as f64)
            }
            whole => write!(f, "{whole} {unit}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_people_write_it() {
        for (text, mib) in
            [("512", 512), ("512M", 512), ("512MiB", 512), ("1G", 1024), ("1GiB", 1024), ("2 GiB", 2048)]
        {
            assert_eq!(memory(text), Ok(mib), "{text}");
        }
        for (bad, why) in [
            ("1T", "512M, 1G"),
            ("", "512M, 1G"),
            ("G", "512M, 1G"),
            ("1.5G", "512M, 1G"),
            ("64", "from 128"),
            ("2048G", "to 1048576"),
            ("99999999999999999999G", "512M, 1G"),
        ] {
            assert!(memory(bad).unwrap_err().contains(why), "{bad}");
        }
        assert_eq!((count(1, "step").as_str(), count(0, "step").as_str()), ("1 step", "0 steps"));
    }

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes, shown) in [
            ("0B", 0, "0 B"),
            ("1023B", 1023, "1023 B"),
            ("1536KiB", 1536 << 10, "1.5 MiB"),
            ("20GiB", 20 << 30, "20 GiB"),
            ("3 TiB", 3 << 40, "3.0 TiB"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size, size.to_string().as_str()), (Size(bytes), shown));
        }
        for bad in ["", "GiB", "5", "-1GiB", "1.5GiB", "1GB", "20gib", "99999999999999TiB", "ü"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }
}
