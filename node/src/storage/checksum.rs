//! The checksum before every stored value: redb does not verify pages when it reads them.
//!
//! It covers table, key and value, so that a row that turns up under another key is found as well as a flipped bit.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::StorageError;

/// How many bytes stand before a value.
pub(super) const SEAL_LEN: usize = 4;

/// The seal of `value` under `key` in the table with this number.
pub(super) fn seal(table: u8, key: &[u8], value: &[u8]) -> [u8; SEAL_LEN] {
    let place = xxh3_64_with_seed(key, u64::from(table));
    (xxh3_64_with_seed(value, place) as u32).to_be_bytes()
}

/// A value with its seal before it.
pub(super) fn sealed(table: u8, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(SEAL_LEN + value.len());
    row.extend_from_slice(&seal(table, key, value));
    row.extend_from_slice(value);
    row
}

/// The value behind a seal that fits it.
pub(super) fn unseal<'a>(table: u8, key: &[u8], row: &'a [u8]) -> Result<&'a [u8], StorageError> {
    match row.split_at_checked(SEAL_LEN) {
        Some((found, value)) if found == seal(table, key, value) => Ok(value),
        _ => {
            Err(StorageError::corrupt(format!("table {table}, key {}: the checksum does not fit", hex(key))))
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    const SHOWN: usize = 64;
    let mut text: String = bytes.iter().take(SHOWN).map(|b| format!("{b:02x}")).collect();
    if bytes.len() > SHOWN {
        text.push_str("..");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_moved_row_is_found() {
        let row = sealed(3, b"key", b"value");
        assert_eq!(unseal(3, b"key", &row).unwrap(), b"value");
        for bit in 0..row.len() * 8 {
            let mut bad = row.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(unseal(3, b"key", &bad), Err(StorageError::Corrupt { .. })));
        }
        assert!(unseal(4, b"key", &row).is_err());
        assert!(unseal(3, b"kez", &row).is_err());
        assert!(unseal(3, b"key", &row[..3]).is_err());
    }
}
