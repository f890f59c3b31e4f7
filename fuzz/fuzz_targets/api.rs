//! What the API answers: metadata, transcripts, summaries, errors and their `Retry-After`. The first byte says which.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringcx_extractor::ringcx::seams;

fuzz_target!(|data: &[u8]| {
    let Some((which, body)) = data.split_first() else { return };
    match which % 4 {
        0 => seams::metadata(body, usize::from(which / 4)),
        1 => seams::transcript(body),
        2 => seams::summary(&String::from_utf8_lossy(body)),
        _ => {
            let wait = body.iter().position(|byte| *byte == b'\n').unwrap_or(body.len());
            let (wait, body) = body.split_at(wait);
            seams::error(100 + 9 * u16::from(which / 4), body, wait, i64::from(*which) << 36);
        }
    }
});
