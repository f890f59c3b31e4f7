//! Long polls of the feed.

use std::time::Duration;

use super::parameters::FeedQuestion;
use super::problem::Problem;
use crate::access::Caller;
use crate::archive_reader::FeedAnswer;
use crate::http::state::HttpState;

/// How often a waiting request looks for what another replica has stored.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The next events. If there are none, waits for some as long as asked.
pub(super) async fn next_events(
    state: &HttpState,
    caller: &Caller,
    mut question: FeedQuestion,
) -> Result<FeedAnswer, Problem> {
    let mut stored = state.app.subscribe_stored();
    let deadline = tokio::time::sleep(question.wait);
    tokio::pin!(deadline);
    loop {
        stored.borrow_and_update();
        let answer = state.reader.feed(caller, &question.after, &question.accounts, question.limit).await?;
        if !answer.events.is_empty() || question.wait.is_zero() {
            return Ok(answer);
        }
        tokio::select! {
            () = &mut deadline => return Ok(answer),
            () = state.stop.cancelled() => return Ok(answer),
            Ok(()) = stored.changed() => {}
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
        question.after = answer.next;
    }
}
