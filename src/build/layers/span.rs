//! Spans of time as people write them: `30m`, `24h`, `7d`, `never`.

use std::fmt;
use std::str::FromStr;

/// How long a layer holds that has something in it which changes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// Seconds.
    After(u64),
    Never,
}

/// Ten years: more is a slip of the pen.
const MOST: u64 = 10 * 365 * 86_400;

impl Ttl {
    /// Of what fetches from a network, where nobody says more.
    pub const DAY: Ttl = Ttl::After(86_400);

    /// Whether it is over for what was made at `then`; both in ms since the epoch.
    pub fn is_over(self, then: i64, now: i64) -> bool {
        match self {
            Ttl::Never => false,
            Ttl::After(seconds) => now.saturating_sub(then) >= (seconds as i64).saturating_mul(1000),
        }
    }
}

impl FromStr for Ttl {
    type Err = String;
    fn from_str(s: &str) -> Result<Ttl, String> {
        if s == "never" {
            return Ok(Ttl::Never);
        }
        let wrong = || format!("`{s}` is no span of time: 30m, 24h, 7d, 0s, or never");
        let unit = match s.chars().last() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => 86_400,
            _ => return Err(wrong()),
        };
        let number: u64 = s[..s.len() - 1].parse().map_err(|_| wrong())?;
        let seconds = number.checked_mul(unit).filter(|n| *n <= MOST);
        Ok(Ttl::After(seconds.ok_or_else(|| format!("`{s}` is more than ten years: say never"))?))
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Ttl::Never => f.write_str("never"),
            Ttl::After(s) if s > 0 && s % 86_400 == 0 && s > 86_400 => write!(f, "{} d", s / 86_400),
            Ttl::After(s) if s > 0 && s % 3600 == 0 => write!(f, "{} h", s / 3600),
            Ttl::After(s) if s > 0 && s % 60 == 0 => write!(f, "{} min", s / 60),
            Ttl::After(s) => write!(f, "{s} s"),
        }
    }
}

/// How long ago something was, roughly: `3 h`.
pub fn ago(then: i64, now: i64) -> String {
    match (now - then).max(0) / 1000 {
        s if s < 120 => format!("{s} s"),
        s if s < 2 * 3600 => format!("{} min", s / 60),
        s if s < 2 * 86_400 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_shown() {
        for (text, seconds, shown) in [
            ("0s", 0, "0 s"),
            ("90s", 90, "90 s"),
            ("30m", 1800, "30 min"),
            ("24h", 86_400, "24 h"),
            ("7d", 604_800, "7 d"),
        ] {
            let ttl: Ttl = text.parse().unwrap();
            assert_eq!((ttl, ttl.to_string().as_str()), (Ttl::After(seconds), shown));
        }
        assert_eq!("never".parse(), Ok(Ttl::Never));
        for bad in ["", "h", "5", "-1h", "1.5h", "1w", "4000d", "99999999999999999999s", "ü"] {
            assert!(bad.parse::<Ttl>().is_err(), "{bad}");
        }
        assert!(Ttl::DAY.is_over(0, 86_400_000) && !Ttl::DAY.is_over(0, 86_399_999));
        assert!(Ttl::After(0).is_over(5, 5) && !Ttl::Never.is_over(0, i64::MAX));
        assert_eq!([ago(0, 5000), ago(0, 7_200_000), ago(0, 200_000_000)], ["5 s", "2 h", "2 d"]);
    }
}
