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

/// What leaves of a recording in place of its audio: exports, events and pages hold this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingReference {
    /// The name of the object: a path below the root of the recording store.
    pub object: String,
    /// SHA-256 of the audio, in hexadecimal.
    pub sha256: String,
    /// The number of bytes.
    pub bytes: u64,
    /// The media type.
    #[serde(rename = "type")]
    pub media_type: String,
    /// How long it plays, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// The number of channels, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<u64>,
    /// A link to the audio that works for a limited time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

impl RecordingReference {
    /// Reads what [`RecordingReference::to_json`] wrote.
    pub fn from_json(json: &[u8]) -> Option<RecordingReference> {
        serde_json::from_slice(json).ok()
    }

    /// The reference as JSON. It stands where a text has its body.
    pub fn to_json(&self) -> Vec<u8> {
        // Texts and numbers: serialising them cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The extension of a file with the audio.
    pub fn extension(&self) -> &'static str {
        AudioType::from_media_type(&self.media_type).map_or("bin", AudioType::extension)
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

    #[test]
    fn a_reference_is_read_as_it_was_written() {
        let reference = RecordingReference {
            object: "ab/ab.wav".to_owned(),
            sha256: "ab".to_owned(),
            bytes: u64::MAX,
            media_type: "audio/wav".to_owned(),
            duration_ms: Some(61_000),
            channels: None,
            url: None,
        };
        assert_eq!(RecordingReference::from_json(&reference.to_json()), Some(reference.clone()));
        assert_eq!(
            String::from_utf8(reference.to_json()).unwrap(),
            r#"{"object":"ab/ab.wav","sha256":"ab","bytes":18446744073709551615,"type":"audio/wav","duration_ms":61000}"#
        );
        assert_eq!((RecordingReference::from_json(b""), reference.extension()), (None, "wav"));
    }
}
