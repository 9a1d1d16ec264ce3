//! Checksums that a store tells of an object.

use super::super::store::sum_of;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// A reflected CRC: the bits of its polynomial in reverse, and its width.
struct Crc {
    polynomial: u64,
    bits: u32,
}

const CRC32: Crc = Crc { polynomial: 0xEDB8_8320, bits: 32 };
const CRC32C: Crc = Crc { polynomial: 0x82F6_3B78, bits: 32 };
const CRC64NVME: Crc = Crc { polynomial: 0x9A6C_9329_AC4B_C9B5, bits: 64 };

impl Crc {
    fn table(&self) -> [u64; 256] {
        std::array::from_fn(|i| {
            (0..8).fold(i as u64, |v, _| if v & 1 == 1 { v >> 1 ^ self.polynomial } else { v >> 1 })
        })
    }

    /// Of a whole file, as the store writes it.
    fn of(&self, mut file: &File) -> io::Result<String> {
        file.seek(SeekFrom::Start(0))?;
        let table = self.table();
        let all = u64::MAX >> (64 - self.bits);
        let mut sum = all;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            sum = buffer[..read].iter().fold(sum, |s, b| table[(s as u8 ^ b) as usize] ^ (s >> 8));
        }
        let bytes = (sum ^ all).to_be_bytes();
        Ok(STANDARD.encode(&bytes[8 - self.bits as usize / 8..]))
    }
}

/// Holds the file to the first checksum that is known here. The inner error says what does not fit.
pub fn verify(file: &File, told: &[(String, String)]) -> io::Result<Result<(), String>> {
    for (name, value) in told {
        // With a dash it is made of the checksums of parts.
        if value.contains('-') {
            continue;
        }
        let found = match name.as_str() {
            "x-amz-checksum-sha256" => {
                let (sum, _) = sum_of(file)?;
                STANDARD.encode(sum)
            }
            "x-amz-checksum-crc64nvme" => CRC64NVME.of(file)?,
            "x-amz-checksum-crc32c" => CRC32C.of(file)?,
            "x-amz-checksum-crc32" => CRC32.of(file)?,
            _ => continue,
        };
        return Ok(match found == *value {
            true => Ok(()),
            false => Err(format!("what came has the {name} {found}, and the store told {value}")),
        });
    }
    Ok(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// The check values that the catalogue of CRCs gives for the nine digits.
    #[test]
    fn known_checksums_are_found() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"123456789").unwrap();
        let encode = |bytes: &[u8]| STANDARD.encode(bytes);
        let sums = [
            ("x-amz-checksum-crc32", encode(&0xCBF4_3926_u32.to_be_bytes())),
            ("x-amz-checksum-crc32c", encode(&0xE306_9283_u32.to_be_bytes())),
            ("x-amz-checksum-crc64nvme", encode(&0xAE8B_1486_0A79_9888_u64.to_be_bytes())),
            ("x-amz-checksum-sha256", "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=".to_owned()),
        ];
        for (name, value) in sums {
            let told = [(name.to_owned(), value.clone())];
            let result = verify(&file, &told).unwrap();
            assert_eq!(result, Ok(()), "{name}");
            let told = [(name.to_owned(), format!("B{}", &value[1..]))];
            assert!(verify(&file, &told).unwrap().is_err(), "{name}");
        }
        let composite = [("x-amz-checksum-crc32".to_owned(), "AAAAAA==-3".to_owned())];
        assert_eq!(verify(&file, &composite).unwrap(), Ok(()));
        assert_eq!(verify(&file, &[]).unwrap(), Ok(()));
    }
}
