//! Parses API answers: metadata, transcripts, summaries, errors and their `Retry-After`. The first byte selects the kind.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringcx_extractor::ringcx::fuzz_checks;

fuzz_target!(|data: &[u8]| {
    let Some((kind, body)) = data.split_first() else { return };
    match kind % 4 {
        0 => fuzz_checks::check_metadata(body, usize::from(kind / 4)),
        1 => fuzz_checks::check_transcript(body),
        2 => fuzz_checks::check_summary(&String::from_utf8_lossy(body)),
        _ => {
            let line_end = body.iter().position(|byte| *byte == b'\n').unwrap_or(body.len());
            let (retry_after, body) = body.split_at(line_end);
            fuzz_checks::check_error(100 + 9 * u16::from(kind / 4), body, retry_after, i64::from(*kind) << 36);
        }
    }
});
