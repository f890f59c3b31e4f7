//! Checks that a stream of bytes is audio, and reads what its header tells: WAV, or MP3. Pure.
//!
//! Only the first bytes are kept. A header may be longer than the first chunk, and the chunk with
//! the sound may follow others of any length, so positions are counted.

use std::time::Duration;

use crate::model::AudioType;

/// What a recording's header tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioHeader {
    /// The format.
    pub audio: AudioType,
    /// How long it plays, if that is known.
    pub duration: Option<Duration>,
    /// The number of channels, if that is known.
    pub channels: Option<u16>,
}

/// Why a whole body is not a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AudioFault {
    /// It is something else.
    NotAudio(&'static str),
    /// Its end is missing.
    CutOff,
}

/// How much is kept to find the sound. Headers are shorter, apart from pictures in MP3 files.
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// How many bytes decide whether it is audio.
const MAGIC_BYTES: usize = 12;

#[derive(Debug, Default)]
pub(super) struct AudioCheck {
    start: Vec<u8>,
    is_decided: bool,
}

impl AudioCheck {
    /// Looks at the next bytes. Fails as soon as they cannot be audio, so that a page of an error is
    /// not written to the store.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<(), &'static str> {
        let room = MAX_HEADER_BYTES.saturating_sub(self.start.len()).min(chunk.len());
        self.start.extend_from_slice(chunk.get(..room).unwrap_or_default());
        if !self.is_decided && self.start.len() >= MAGIC_BYTES {
            audio_type(&self.start).ok_or(NOT_AUDIO)?;
            self.is_decided = true;
        }
        Ok(())
    }

    /// Judges the whole body of `size` bytes.
    pub(super) fn finish(self, size: u64) -> Result<AudioHeader, AudioFault> {
        match audio_type(&self.start).ok_or(AudioFault::NotAudio(NOT_AUDIO))? {
            AudioType::Wav => read_wav(&self.start, size),
            AudioType::Mp3 => Ok(read_mp3(&self.start, size)),
        }
    }
}

const NOT_AUDIO: &str = "it is no audio";

fn audio_type(start: &[u8]) -> Option<AudioType> {
    let is_wav = (start.starts_with(b"RIFF") || start.starts_with(b"RF64")) && start.get(8..12) == Some(b"WAVE");
    let is_mp3 = start.starts_with(b"ID3") || mp3_frame(start).is_some();
    match (is_wav, is_mp3) {
        (true, _) => Some(AudioType::Wav),
        (false, true) => Some(AudioType::Mp3),
        (false, false) => None,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// A stream whose length was unknown when its header was written has one of these as its length.
fn is_unknown_length(length: u32) -> bool {
    length == 0 || length >= 0x7fff_0000
}

/// Reads the chunks of a WAV file: the format, and where the sound begins.
fn read_wav(start: &[u8], size: u64) -> Result<AudioHeader, AudioFault> {
    let (mut at, mut channels, mut bytes_per_second) = (MAGIC_BYTES, None, None);
    let mut sound = None;
    while let (Some(name), Some(length)) = (start.get(at..at + 4), u32_at(start, at + 4)) {
        let content = at + 8;
        match name {
            b"fmt " => {
                channels = u16_at(start, content + 2).filter(|channels| *channels > 0);
                bytes_per_second = u32_at(start, content + 8).filter(|rate| *rate > 0);
            }
            b"data" => {
                sound = Some((content as u64, length));
                break;
            }
            _ => {}
        }
        // Chunks begin at even positions.
        let next = content as u64 + u64::from(length) + u64::from(length % 2);
        match usize::try_from(next).ok().filter(|next| *next < start.len()) {
            Some(next) => at = next,
            // The sound begins further back than is kept, if it is there at all.
            None if next < size && size > start.len() as u64 => break,
            None => return Err(AudioFault::CutOff),
        }
    }
    let Some((begin, length)) = sound else {
        return if size > start.len() as u64 {
            Ok(AudioHeader { audio: AudioType::Wav, duration: None, channels })
        } else {
            Err(AudioFault::CutOff)
        };
    };
    let received = size.saturating_sub(begin);
    let length = if is_unknown_length(length) { received } else { u64::from(length) };
    if received < length {
        return Err(AudioFault::CutOff);
    }
    let duration = bytes_per_second.map(|rate| Duration::from_secs_f64(length as f64 / f64::from(rate)));
    Ok(AudioHeader { audio: AudioType::Wav, duration, channels })
}

/// What the header of an MP3 frame tells.
struct Mp3Frame {
    bits_per_second: u32,
    channels: u16,
}

/// The bit rates of layer 3 in kbit/s, by index: MPEG 1, and MPEG 2 and 2.5.
const BIT_RATES: [[u32; 15]; 2] = [
    [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
    [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
];

/// The frame that begins here, if one does.
fn mp3_frame(bytes: &[u8]) -> Option<Mp3Frame> {
    let header: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    let (version, layer) = (header[1] >> 3 & 3, header[1] >> 1 & 3);
    let (rate, frequency) = (usize::from(header[2] >> 4), header[2] >> 2 & 3);
    let is_frame = header[0] == 0xff && header[1] & 0xe0 == 0xe0 && version != 1 && layer == 1 && frequency != 3;
    let bits_per_second = BIT_RATES.get(usize::from(version != 3))?.get(rate)? * 1000;
    let channels = if header[3] >> 6 == 3 { 1 } else { 2 };
    is_frame.then_some(Mp3Frame { bits_per_second, channels })
}

/// Estimates the duration by the first frame's bit rate, which telephone recordings keep throughout.
fn read_mp3(start: &[u8], size: u64) -> AudioHeader {
    let frame_at = match start.get(..10) {
        Some(tag) if tag.starts_with(b"ID3") => {
            let length = tag.iter().skip(6).fold(0_usize, |sum, part| sum << 7 | usize::from(part & 0x7f));
            10 + length
        }
        _ => 0,
    };
    let frame = start.get(frame_at..).and_then(mp3_frame);
    let sound = size.saturating_sub(frame_at as u64);
    let duration = frame
        .as_ref()
        .filter(|frame| frame.bits_per_second > 0)
        .map(|frame| Duration::from_secs_f64(sound as f64 * 8.0 / f64::from(frame.bits_per_second)));
    AudioHeader { audio: AudioType::Mp3, duration, channels: frame.map(|frame| frame.channels) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wav(channels: u16, rate: u32, declared: u32, sound: usize) -> Vec<u8> {
        let mut bytes = b"RIFF\0\0\0\0WAVE".to_vec();
        bytes.extend(b"LIST\x03\0\0\0abc\0");
        bytes.extend(b"fmt \x10\0\0\0\x01\0");
        bytes.extend(channels.to_le_bytes());
        bytes.extend(rate.to_le_bytes());
        bytes.extend((rate * u32::from(channels) * 2).to_le_bytes());
        bytes.extend((channels * 2).to_le_bytes());
        bytes.extend(16_u16.to_le_bytes());
        bytes.extend(b"data");
        bytes.extend(declared.to_le_bytes());
        bytes.extend(vec![7; sound]);
        bytes
    }

    fn check(bytes: &[u8], chunk: usize) -> Result<AudioHeader, AudioFault> {
        let mut check = AudioCheck::default();
        for part in bytes.chunks(chunk) {
            check.push(part).map_err(AudioFault::NotAudio)?;
        }
        check.finish(bytes.len() as u64)
    }

    #[test]
    fn a_wav_header_tells_duration_and_channels_however_it_is_cut() {
        for chunk in [1, 13, 64, 100_000] {
            for declared in [32_000, 0, u32::MAX] {
                let header = check(&wav(2, 8000, declared, 32_000), chunk).unwrap();
                let expected =
                    AudioHeader { audio: AudioType::Wav, duration: Some(Duration::from_secs(1)), channels: Some(2) };
                assert_eq!(header, expected, "{chunk} {declared}");
            }
        }
    }

    #[test]
    fn a_wav_that_is_shorter_than_its_header_says_is_cut_off() {
        let whole = wav(1, 8000, 16_000, 16_000);
        for length in [12, 20, 40, 60, whole.len() - 1] {
            assert_eq!(check(&whole[..length], 7), Err(AudioFault::CutOff), "{length}");
        }
        assert!(check(&whole, 7).is_ok());
    }

    #[test]
    fn an_mp3_is_recognised_with_and_without_a_tag() {
        let frame = [0xff, 0xfb, 0x90, 0xc0];
        let mut plain = frame.to_vec();
        plain.resize(16_000, 0);
        let expected = AudioHeader { audio: AudioType::Mp3, duration: Some(Duration::from_secs(1)), channels: Some(1) };
        assert_eq!(check(&plain, 1000), Ok(expected));
        let mut tagged = b"ID3\x04\0\0\0\0\0\x05tag..".to_vec();
        tagged.extend(&plain);
        assert_eq!(check(&tagged, 3), Ok(expected));
    }

    #[test]
    fn what_is_no_audio_is_refused_at_its_first_bytes() {
        for other in
            ["{\"errorCode\":\"not.ready\"}", "<!doctype html><html>", "RIFF1234AVI LIST", "hello world, no sound"]
        {
            let mut check = AudioCheck::default();
            assert_eq!(check.push(other.as_bytes()), Err(NOT_AUDIO), "{other}");
        }
        assert_eq!(check(b"short", 9), Err(AudioFault::NotAudio(NOT_AUDIO)));
        assert_eq!(check(b"", 9), Err(AudioFault::NotAudio(NOT_AUDIO)));
    }
}
