//! Text encodings of file actions. Unsuffixed means little endian; no byte order mark is written.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Utf8,
    Utf16Le,
    Utf16Be,
    Utf32Le,
    Utf32Be,
}

impl Encoding {
    /// By its documented name, in any case.
    pub fn parse(name: &str) -> Option<Encoding> {
        Some(match name.to_ascii_lowercase().as_str() {
            "utf8" | "utf-8" => Encoding::Utf8,
            "utf16" | "utf-16" | "utf16-le" | "utf-16-le" => Encoding::Utf16Le,
            "utf16-be" | "utf-16-be" => Encoding::Utf16Be,
            "utf32" | "utf-32" | "utf32-le" | "utf-32-le" => Encoding::Utf32Le,
            "utf32-be" | "utf-32-be" => Encoding::Utf32Be,
            _ => return None,
        })
    }

    pub fn encode(self, text: &str) -> Vec<u8> {
        match self {
            Encoding::Utf8 => text.as_bytes().to_vec(),
            Encoding::Utf16Le => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            Encoding::Utf16Be => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
            Encoding::Utf32Le => text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect(),
            Encoding::Utf32Be => text.chars().flat_map(|c| u32::from(c).to_be_bytes()).collect(),
        }
    }

    /// The text, without a byte order mark; None when the bytes are not in this encoding.
    pub fn decode(self, bytes: &[u8]) -> Option<String> {
        let text = match self {
            Encoding::Utf8 => String::from_utf8(bytes.to_vec()).ok()?,
            Encoding::Utf16Le => utf16(bytes, u16::from_le_bytes)?,
            Encoding::Utf16Be => utf16(bytes, u16::from_be_bytes)?,
            Encoding::Utf32Le => utf32(bytes, u32::from_le_bytes)?,
            Encoding::Utf32Be => utf32(bytes, u32::from_be_bytes)?,
        };
        Some(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<String> {
    let (units, []) = bytes.as_chunks::<2>() else { return None };
    char::decode_utf16(units.iter().map(|u| unit(*u))).collect::<Result<_, _>>().ok()
}

fn utf32(bytes: &[u8], unit: fn([u8; 4]) -> u32) -> Option<String> {
    let (units, []) = bytes.as_chunks::<4>() else { return None };
    units.iter().map(|u| char::from_u32(unit(*u))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_gives_back_what_it_took() {
        for name in ["utf8", "UTF-16", "utf16-BE", "utf-32-LE", "utf32-be"] {
            let e = Encoding::parse(name).unwrap();
            assert_eq!(e.decode(&e.encode("aé😀\u{0}")).unwrap(), "aé😀\u{0}", "{name}");
        }
        assert_eq!(Encoding::Utf16Le.encode("A"), [0x41, 0]);
        assert_eq!(Encoding::Utf16Le.decode(&[0xff, 0xfe, 0x41, 0]).unwrap(), "A");
        assert_eq!(Encoding::Utf16Be.decode(&[0x41]), None);
        assert_eq!(Encoding::Utf8.decode(&[0xff]), None);
        assert_eq!(Encoding::Utf32Le.decode(&[0, 0, 0x11, 0]), None);
    }
}
