//! What is known about a recording besides its bytes.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The format of a recording, as its first bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AudioType {
    /// RIFF/WAVE.
    Wav,
    /// MPEG audio, layer 3.
    Mp3,
}

impl AudioType {
    /// All formats.
    pub const ALL: [AudioType; 2] = [AudioType::Wav, AudioType::Mp3];

    /// The media type, which is also the value in the database.
    pub const fn media_type(self) -> &'static str {
        match self {
            AudioType::Wav => "audio/wav",
            AudioType::Mp3 => "audio/mpeg",
        }
    }

    /// The format with this media type.
    pub fn from_media_type(media_type: &str) -> Option<AudioType> {
        AudioType::ALL.into_iter().find(|audio| audio.media_type() == media_type)
    }

    /// The extension of a file.
    pub const fn extension(self) -> &'static str {
        match self {
            AudioType::Wav => "wav",
            AudioType::Mp3 => "mp3",
        }
    }
}

/// A recording as it was received and stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordingFacts {
    /// SHA-256 of the bytes as received. It names the object in the store.
    pub sha256: [u8; 32],
    /// The number of bytes.
    pub size: u64,
    /// The format.
    pub audio: AudioType,
    /// How long it plays, if its header tells.
    pub duration: Option<Duration>,
    /// The number of channels, if its header tells.
    pub channels: Option<u16>,
}

impl RecordingFacts {
    /// The name of the object in the recording store: a path below its root, by hash.
    pub fn object_name(&self) -> String {
        let hash: String = self.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}/{hash}.{}", hash.get(..2).unwrap_or_default(), self.audio.extension())
    }
}

impl fmt::Display for AudioType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.media_type())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_named_by_its_hash_and_its_format() {
        let facts =
            RecordingFacts { sha256: [0xab; 32], size: 1, audio: AudioType::Wav, duration: None, channels: None };
        assert_eq!(facts.object_name(), format!("ab/{}.wav", "ab".repeat(32)));
        assert_eq!(AudioType::from_media_type("audio/mpeg"), Some(AudioType::Mp3));
    }
}
