//! The audio of simulated recordings: WAV with two channels, a speaker each. Pure.
//!
//! Any part is computed when it is sent, so a recording may be longer than memory. Two recordings
//! with different seeds differ.

use bytes::Bytes;

use crate::options::Traffic;

const FRAMES_PER_SECOND: u64 = 8_000;
/// Two samples of 16 bits.
const BYTES_PER_FRAME: u64 = 4;
const BYTES_PER_SECOND: u64 = FRAMES_PER_SECOND * BYTES_PER_FRAME;
/// The header, with a chunk that holds the seed.
const HEADER_BYTES: u64 = 60;

/// A recording: generated, or with given bytes.
#[derive(Debug, Clone)]
pub(super) struct RecordingAudio {
    content: AudioContent,
    size: u64,
}

#[derive(Debug, Clone)]
enum AudioContent {
    Generated { seed: u64, seconds: u32 },
    Fixed(Bytes),
}

impl RecordingAudio {
    pub(super) fn generated(seed: u64, traffic: &Traffic) -> RecordingAudio {
        let seconds = traffic.recording_seconds;
        let size = HEADER_BYTES + u64::from(seconds) * BYTES_PER_SECOND;
        RecordingAudio { content: AudioContent::Generated { seed, seconds }, size }
    }

    pub(super) fn fixed(bytes: Bytes) -> RecordingAudio {
        RecordingAudio { size: bytes.len() as u64, content: AudioContent::Fixed(bytes) }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Drops the second half. The header still has the whole length.
    pub(super) fn cut_in_half(&mut self) {
        self.size /= 2;
    }

    /// The bytes from `from` up to `to`, both within the size.
    pub(super) fn read(&self, from: u64, to: u64) -> Bytes {
        match &self.content {
            AudioContent::Fixed(bytes) => bytes.slice(from as usize..to as usize),
            AudioContent::Generated { seed, seconds } => {
                let mut out = Vec::with_capacity((to - from) as usize);
                if from < HEADER_BYTES {
                    let header = header(*seed, *seconds);
                    out.extend_from_slice(&header[from as usize..to.min(HEADER_BYTES) as usize]);
                }
                let mut at = from.max(HEADER_BYTES) - HEADER_BYTES;
                let end = to.max(HEADER_BYTES) - HEADER_BYTES;
                while at < end {
                    let frame = frame(*seed, at / BYTES_PER_FRAME);
                    let begin = at % BYTES_PER_FRAME;
                    let length = (BYTES_PER_FRAME - begin).min(end - at);
                    out.extend_from_slice(&frame[begin as usize..(begin + length) as usize]);
                    at += length;
                }
                out.into()
            }
        }
    }

    pub(super) fn read_all(&self) -> Bytes {
        self.read(0, self.size)
    }
}

fn header(seed: u64, seconds: u32) -> Vec<u8> {
    let sound = u64::from(seconds) * BYTES_PER_SECOND;
    let length = |bytes: u64| (bytes.min(u64::from(u32::MAX)) as u32).to_le_bytes();
    let mut header = b"RIFF".to_vec();
    header.extend(length(HEADER_BYTES - 8 + sound));
    header.extend(b"WAVEfmt \x10\0\0\0\x01\0\x02\0");
    header.extend((FRAMES_PER_SECOND as u32).to_le_bytes());
    header.extend((BYTES_PER_SECOND as u32).to_le_bytes());
    header.extend([BYTES_PER_FRAME as u8, 0, 16, 0]);
    header.extend(b"junk\x08\0\0\0");
    header.extend(seed.to_le_bytes());
    header.extend(b"data");
    header.extend(length(sound));
    header
}

/// Two speakers take turns, a second each, with tones of their own.
fn frame(seed: u64, number: u64) -> [u8; 4] {
    let left_speaks = (number / FRAMES_PER_SECOND).is_multiple_of(2);
    let left = if left_speaks { triangle(number, 18 + seed % 12) } else { 0 };
    let right = if left_speaks { 0 } else { triangle(number, 30 + (seed >> 8) % 12) };
    let ([a, b], [c, d]) = (left.to_le_bytes(), right.to_le_bytes());
    [a, b, c, d]
}

/// A triangle wave with this period in frames.
fn triangle(number: u64, period: u64) -> i16 {
    let at = number % period;
    let height = at.min(period - at) as i64 * 4 * 6_000 / period as i64 - 6_000;
    height.clamp(-6_000, 6_000) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_any_size_make_up_the_whole_recording() {
        let traffic = Traffic { recording_seconds: 2, ..Traffic::default() };
        let audio = RecordingAudio::generated(7, &traffic);
        let whole = audio.read_all();
        assert_eq!(whole.len() as u64, audio.size());
        assert_eq!((&whole[..4], &whole[8..12], whole[22]), (&b"RIFF"[..], &b"WAVE"[..], 2));
        for part in [1, 59, 61, 1000] {
            let starts = (0..audio.size()).step_by(part);
            let parts: Vec<u8> =
                starts.flat_map(|at| audio.read(at, audio.size().min(at + part as u64)).to_vec()).collect();
            assert!(parts == whole, "{part}");
        }
        assert!(RecordingAudio::generated(8, &traffic).read_all() != whole);
    }
}
