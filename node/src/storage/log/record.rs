//! The form of one record of the log, and how to tell a record from anything else that may stand in a segment.
//!
//! ```text
//! 0   8  checksum of the rest of the head          24  4  length of the body
//! 8   8  checksum of the body                      28  4  where the batch of this record begins in the segment
//! 16  8  index                                     32  4  life: how often the log had been opened when it was written
//!                                                  36  4  kind
//! 40     body, then zeros up to a multiple of 8
//! ```
//!
//! Numbers are big-endian. Both checksums are seeded with the segment's own seed and the record's place in it. So what a
//! recycled file still holds of its former segment is no record of this one, nor is a record that a client's value
//! happens to contain.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes before the body.
pub(super) const HEAD_LEN: u32 = 40;
/// Records begin at multiples of this.
pub(super) const ALIGN: u32 = 8;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first record of a segment: what the log holds besides entries, and which entries stand in segments before.
    Opening,
    /// The entry with this index.
    Entry,
    /// A row beside the entries.
    Row,
    /// Entries from this index on are gone.
    Truncate,
    /// Entries below this index are gone.
    Purge,
}

impl Kind {
    fn code(self) -> u32 {
        match self {
            Kind::Opening => 1,
            Kind::Entry => 2,
            Kind::Row => 3,
            Kind::Truncate => 4,
            Kind::Purge => 5,
        }
    }

    fn from_code(code: u32) -> Option<Self> {
        [Kind::Opening, Kind::Entry, Kind::Row, Kind::Truncate, Kind::Purge]
            .into_iter()
            .find(|kind| kind.code() == code)
    }
}

/// The head of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) index: u64,
    /// Length of the body.
    pub(super) len: u32,
    /// Where the batch that it belongs to begins. All before that was on disk before this was written.
    pub(super) batch: u32,
    /// Rises with each opening of the log, so that what an earlier life left behind its end is told apart.
    pub(super) life: u32,
    body_sum: u64,
}

impl Head {
    /// The head at `at` of a segment with this seed; `None` if there is none.
    pub(super) fn decode(bytes: &[u8], seed: u64, at: u32) -> Option<Self> {
        let bytes = bytes.get(..HEAD_LEN as usize)?;
        let u32_at = |from: usize| bytes[from..].first_chunk().map(|b| u32::from_be_bytes(*b));
        let u64_at = |from: usize| bytes[from..].first_chunk().map(|b| u64::from_be_bytes(*b));
        // Cheap, and false of nearly everything that is no record.
        let kind = Kind::from_code(u32_at(36)?)?;
        if u64_at(0)? != sum(&bytes[8..], seed, at) {
            return None;
        }
        let (body_sum, index, len) = (u64_at(8)?, u64_at(16)?, u32_at(24)?);
        Some(Self { kind, index, len, batch: u32_at(28)?, life: u32_at(32)?, body_sum })
    }

    /// Whether this is the body.
    pub(super) fn fits(&self, body: &[u8], seed: u64, at: u32) -> bool {
        self.body_sum == sum(body, seed, at)
    }

    /// Where the record after this one begins.
    pub(super) fn end(&self, at: u32) -> u64 {
        u64::from(at) + record_len(self.len as usize)
    }
}

fn sum(bytes: &[u8], seed: u64, at: u32) -> u64 {
    xxh3_64_with_seed(bytes, seed.wrapping_add(u64::from(at)))
}

/// What a record with such a body takes.
pub(super) fn record_len(body: usize) -> u64 {
    (u64::from(HEAD_LEN) + body as u64).next_multiple_of(u64::from(ALIGN))
}

/// Writes the records of one batch, one behind the other.
pub(super) struct Encoder {
    out: Vec<u8>,
    seed: u64,
    batch: u32,
    life: u32,
}

impl Encoder {
    /// For a batch that begins at `batch` of the segment with this seed. `buffer` is used again for what it has room for.
    pub(super) fn new(mut buffer: Vec<u8>, seed: u64, batch: u32, life: u32) -> Self {
        buffer.clear();
        Self { out: buffer, seed, batch, life }
    }

    /// Appends a record; `body` adds its body. Says where in the segment it begins and how long the body is.
    pub(super) fn put(&mut self, kind: Kind, index: u64, body: impl FnOnce(&mut Vec<u8>)) -> (u32, u32) {
        let start = self.out.len();
        // The batch has been measured before: it ends within the segment, which is below 4 GiB.
        let at = self.batch + start as u32;
        let from = start + HEAD_LEN as usize;
        self.out.resize(from, 0);
        body(&mut self.out);
        let len = (self.out.len() - from) as u32;
        let body_sum = sum(&self.out[from..], self.seed, at);
        let head = &mut self.out[start..from];
        head[8..16].copy_from_slice(&body_sum.to_be_bytes());
        head[16..24].copy_from_slice(&index.to_be_bytes());
        head[24..28].copy_from_slice(&len.to_be_bytes());
        head[28..32].copy_from_slice(&self.batch.to_be_bytes());
        head[32..36].copy_from_slice(&self.life.to_be_bytes());
        head[36..40].copy_from_slice(&kind.code().to_be_bytes());
        let head_sum = sum(&head[8..], self.seed, at);
        head[..8].copy_from_slice(&head_sum.to_be_bytes());
        self.out.resize(self.out.len().next_multiple_of(ALIGN as usize), 0);
        (at, len)
    }

    /// All that was put.
    pub(super) fn finish(self) -> Vec<u8> {
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_these_bytes() {
        let mut encoder = Encoder::new(Vec::new(), 7, 512, 3);
        assert_eq!(encoder.put(Kind::Entry, 9, |out| out.extend_from_slice(b"entry")), (512, 5));
        let bytes = encoder.finish();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "73da860f57a10b4953f2a983d699155a0000000000000009000000050000020000000003\
             00000002656e747279000000"
        );
    }

    #[test]
    fn every_flipped_bit_and_every_other_place_is_no_record() {
        let mut encoder = Encoder::new(Vec::new(), 7, 512, 3);
        encoder.put(Kind::Row, 0, |out| out.extend_from_slice(b"first"));
        let (at, len) = encoder.put(Kind::Entry, 9, |out| out.extend_from_slice(b"entry"));
        let bytes = encoder.finish();
        let is_record = |bytes: &[u8], seed: u64, at: u32| {
            let body = &bytes[HEAD_LEN as usize..(HEAD_LEN + len) as usize];
            Head::decode(bytes, seed, at).is_some_and(|head| head.fits(body, seed, at))
        };
        let record = &bytes[(at - 512) as usize..];
        assert!(is_record(record, 7, at));
        let head = Head::decode(record, 7, at).unwrap();
        assert_eq!((head.kind, head.index, head.len, head.batch, head.life), (Kind::Entry, 9, 5, 512, 3));
        assert_eq!(head.end(at), u64::from(at) + 48);
        for bit in 0..(HEAD_LEN + len) as usize * 8 {
            let mut bad = record.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_record(&bad, 7, at), "bit {bit}");
        }
        assert!(!is_record(record, 8, at), "of another segment");
        assert!(!is_record(record, 7, at + 8), "at another place");
        assert!(Head::decode(&record[..39], 7, at).is_none());
        assert!(Head::decode(&[0; 40], 7, at).is_none());
    }
}
