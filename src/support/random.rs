//! Names that nobody can guess.

use std::io::Read;

/// `count` random bytes as hexadecimal digits.
///
/// # Errors
/// The kernel's random device cannot be read.
pub fn hexadecimal(count: usize) -> std::io::Result<String> {
    Ok(bytes(count)?.iter().map(|b| format!("{b:02x}")).collect())
}

/// So many random bytes.
///
/// # Errors
/// The kernel's random device cannot be read.
pub fn bytes(count: usize) -> std::io::Result<Vec<u8>> {
    let mut random = vec![0; count];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(random)
}

/// A random (version 4) UUID.
///
/// # Errors
/// The kernel's random device cannot be read.
pub fn uuid() -> std::io::Result<String> {
    let hex = hexadecimal(16)?;
    // The version nibble is 4, the variant's two bits are 10.
    let variant = ["8", "9", "a", "b"][usize::from(hex.as_bytes()[16]) % 4];
    Ok(format!("{}-{}-4{}-{variant}{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..]))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_uuid_is_one() {
        let uuid = super::uuid().unwrap();
        let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert!(uuid.as_bytes()[14] == b'4' && b"89ab".contains(&uuid.as_bytes()[19]), "{uuid}");
    }
}
