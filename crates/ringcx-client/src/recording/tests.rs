use std::time::Duration;

use super::*;
use crate::USER_AGENT;
use crate::clock::Clock;
use crate::model::AudioType;
use crate::test_server::{LoopbackServer, ScriptedReply, account, api, pacer, permanent_login, reply};

#[derive(Default)]
struct Collected(Vec<u8>);

impl RecordingWriter for Collected {
    async fn write(&mut self, chunk: Bytes) -> Result<(), ApiError> {
        self.0.extend_from_slice(&chunk);
        Ok(())
    }
}

struct FullDisk;

impl RecordingWriter for FullDisk {
    async fn write(&mut self, _: Bytes) -> Result<(), ApiError> {
        Err(ApiError::store_failed(Endpoint::Recording, "the disk is full"))
    }
}

async fn fetch_into(
    server: &LoopbackServer,
    max_bytes: u64,
    writer: &mut impl RecordingWriter,
) -> Result<AudioHeader, ApiError> {
    let clock = Clock::system();
    let (api, pacer) = (api(server, clock.clone()), pacer(clock));
    let permit = pacer.acquire().await;
    let account = account();
    let request = RecordingRequest { account: &account, dialog: "d/1", segment: "s 1", accept: "audio/wav", max_bytes };
    fetch_recording(&api, &permanent_login(&api), &pacer, permit, request, writer).await
}

async fn fetch(server: &LoopbackServer) -> Result<(AudioHeader, Vec<u8>), ApiError> {
    let mut collected = Collected::default();
    let header = fetch_into(server, 1_000_000, &mut collected).await?;
    Ok((header, collected.0))
}

/// A second of silence in two channels.
fn wav() -> Vec<u8> {
    let mut bytes =
        b"RIFF\x24\x7d\0\0WAVEfmt \x10\0\0\0\x01\0\x02\0\x40\x1f\0\0\0\x7d\0\0\x04\0\x10\0data\0\x7d\0\0".to_vec();
    bytes.resize(bytes.len() + 32_000, 0);
    bytes
}

#[tokio::test]
async fn a_recording_is_written_byte_for_byte_and_its_header_is_read() {
    let server = LoopbackServer::start(|_| reply(200, "content-type: audio/wav\r\n", wav()));
    let (header, bytes) = fetch(&server).await.unwrap();
    assert_eq!((header.audio, header.channels), (AudioType::Wav, Some(2)));
    assert_eq!(header.duration, Some(Duration::from_secs(1)));
    assert!(bytes == wav());
    let request = server.requests().pop().unwrap();
    let path =
        "/voice/api/cx/integration/v1/accounts/980634004/sub-accounts/99999999/recordings/dialogs/d%2F1/segments/s%201";
    assert_eq!(request.target, path);
    assert_eq!((request.header("accept"), request.header("user-agent")), (Some("audio/wav"), Some(USER_AGENT)));
}

#[tokio::test]
async fn a_body_that_is_no_audio_is_a_broken_answer_whose_start_is_kept() {
    for body in [r#"{"generalMessage":"try later"}"#, "<!doctype html><title>Sorry</title>", "tiny"] {
        let server = LoopbackServer::start(move |_| reply(200, "content-type: audio/wav\r\n", body));
        let error = fetch(&server).await.unwrap_err();
        assert_eq!((error.cause, error.status), (ErrorCause::Undecodable, Some(200)), "{body}");
        assert_eq!(error.body().map(|kept| &kept.bytes[..]), Some(body.as_bytes()));
        assert_eq!(error.into_item_error().fault, Fault::Broken);
    }
    let server = LoopbackServer::start(|_| reply(200, "", r#"{"errorCode":"recording.pending"}"#));
    assert_eq!(fetch(&server).await.unwrap_err().fault, Fault::NotYet);
    let server = LoopbackServer::start(|_| reply(200, "", ""));
    let error = fetch(&server).await.unwrap_err();
    assert_eq!((error.fault, error.cause), (Fault::NotYet, ErrorCause::Empty));
}

#[tokio::test]
async fn a_recording_that_is_cut_off_or_shorter_than_its_header_says_is_incomplete() {
    let cut = |length: usize| {
        let mut bytes = format!("HTTP/1.1 200 X\r\ncontent-length: {}\r\n\r\n", wav().len()).into_bytes();
        bytes.extend(&wav()[..length]);
        bytes
    };
    let server = LoopbackServer::start(move |_| ScriptedReply::Cut(cut(20_000)));
    assert_eq!(fetch(&server).await.unwrap_err().cause, ErrorCause::ConnectionLost);
    let server = LoopbackServer::start(|_| reply(200, "", &wav()[..20_000]));
    assert_eq!(fetch(&server).await.unwrap_err().cause, ErrorCause::ConnectionLost);
}

#[tokio::test]
async fn a_recording_above_the_limit_is_refused_with_and_without_a_declared_length() {
    let limit = async |server: &LoopbackServer| {
        let mut collected = Collected::default();
        let error = fetch_into(server, 10_000, &mut collected).await.unwrap_err();
        assert_eq!(error.cause, ErrorCause::TooLarge);
        assert!(collected.0.len() <= 10_000, "{}", collected.0.len());
    };
    limit(&LoopbackServer::start(|_| reply(200, "", wav()))).await;
    let unknown = |_: &_| {
        ScriptedReply::Stream(Box::new(|stream| {
            stream.write_all(b"HTTP/1.1 200 X\r\nconnection: close\r\n\r\n")?;
            stream.write_all(&wav())
        }))
    };
    limit(&LoopbackServer::start(unknown)).await;
    let (_, bytes) = fetch(&LoopbackServer::start(unknown)).await.unwrap();
    assert_eq!(bytes.len(), wav().len());
}

#[tokio::test]
async fn a_store_that_cannot_be_written_to_is_no_fault_of_the_answer() {
    let server = LoopbackServer::start(|_| reply(200, "", wav()));
    let error = fetch_into(&server, 1_000_000, &mut FullDisk).await.unwrap_err();
    assert_eq!((error.cause, error.status, error.broken_kind()), (ErrorCause::StoreFailed, None, None));
    assert!(error.to_string().contains("failed to fetch a recording: the disk is full"), "{error}");
}

#[test]
fn the_permitted_time_grows_with_the_recording_up_to_twelve_hours() {
    let seconds = |bytes| longest_time(bytes).as_secs();
    assert_eq!((seconds(0), seconds(8_000_000)), (60, 1060));
    assert_eq!((seconds(5_000_000_000), seconds(u64::MAX)), (12 * 3600, 12 * 3600));
}
