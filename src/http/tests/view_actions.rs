//! The views of queue and delivery: what each person sees there, and the actions on one item, on marked
//! ones, and on all that match.

use super::console_actions::{Browser, ROLES};
use super::*;
use crate::db::sql;

const MORE_ROLES: &str = r#"
[[access.roles]]
name = "chief"
subjects = ["zoe@example.com"]
may = ["read", "operate"]
[[sinks]]
name = "crm"
type = "webhook"
url = "https://crm.example/hook"
secret = "signs with more than enough"
"#;

/// Two accounts with items that failed and gave up, and a sink that refused an event.
async fn start() -> Server {
    let server = Server::prepared_with(&format!("{SETTINGS}{ROLES}{MORE_ROLES}"), async |app| {
        let config::Accounts::Listed(listed) = &app.settings.accounts else { panic!("listed") };
        let wanted = listed.iter().map(|listed| (listed.id.clone(), listed.name.clone())).collect();
        for (nth, account) in (1_i64..).zip(app.db.register_accounts(&wanted, NOW).await.unwrap()) {
            for number in 0..3 {
                let key = nth * 10 + number;
                let segment = sql("insert into segment (id, account, segment_id, dialog_id, ended, has_transcript, is_agent, asked, first_seen,
                     changed, digest, codec, metadata) values ($1, $2, $3, null, $4, 1, 1, 7, $4, $4, $5, 0, $6)");
                let segment = segment.bind(key).bind(account.key).bind(format!("segment-{}-{number}", account.id.sub));
                let segment = segment.bind(NOW).bind(vec![0_u8; 32]).bind(br#"{"channelClass":"VOICE"}"#.to_vec());
                app.db.run(segment).await.unwrap();
                let work = sql("insert into work (item, segment, artifact, account, lane, state, due, created, tries, status, reason)
                     values ($1, $2, 0, $3, 0, $4, $5, $5, 7, 404, $6)");
                let (state, reason) = if number == 0 { (2, "400: cannot be transcribed") } else { (1, "404: not found") };
                let work = work.bind(key * 4).bind(key).bind(account.key).bind(i64::from(state)).bind(NOW).bind(reason);
                app.db.run(work).await.unwrap();
            }
        }
        app.db.run(sql("insert into sink (id, name, created, place, stopped, reason) values (1, 'crm', 0, 'x', null, null)")).await.unwrap();
        let refused = sql("insert into sink_event (sink, account, feed, item, state, tries, waited, first_try, last_try, due, status, reason)
             values (1, 1, 1, 40, 1, 1, 0, $1, $1, $1, 422, '422: no such field')");
        app.db.run(refused.bind(NOW)).await.unwrap();
    })
    .await;
    server.own_both_accounts().await;
    server
}

async fn states(server: &Server) -> Vec<(String, i64)> {
    let stmt = sql("select s.segment_id, w.state from work w join segment s on s.id = w.segment order by 1");
    server.app.db.all::<(String, i64)>(stmt).await.unwrap()
}

fn of_one(state: [i64; 3]) -> Vec<(String, i64)> {
    let name = |sub: &str, number: usize| format!("segment-{sub}-{number}");
    let mut all: Vec<(String, i64)> =
        state.into_iter().enumerate().map(|(number, state)| (name("one", number), state)).collect();
    all.extend([2, 1, 1].into_iter().enumerate().map(|(number, state)| (name("two", number), state)));
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_retries_marked_items_and_discards_all_that_match_after_a_question() {
    let server = start().await;
    let ann = Browser::of(&server, "ann@example.com").await;
    let page = ann.get("/queue").await.body;
    assert!(page.contains("segment-one-0") && page.contains("400: cannot be transcribed"), "{page}");
    assert!(!page.contains("segment-two"), "another account's: {page}");
    let token = ann.token("/queue").await;
    let base = [("token", token.as_str()), ("back", "/queue")];

    let retry = [&base[..], &[("pick.0", "transcript|one|segment-one-0"), ("state", "failed")]].concat();
    let done = ann.post("/actions/retry-items", &retry).await;
    assert_eq!(done.status, 303, "{}", done.body);
    assert_eq!(states(&server).await, of_one([0, 1, 1]));
    let foreign = [&base[..], &[("only", "transcript|two|segment-two-0")]].concat();
    assert_eq!(ann.post("/actions/retry-items", &foreign).await.status, 404, "an item of another account");

    let discard = [&base[..], &[("all", "yes"), ("state", "unavailable")]].concat();
    let question = ann.post("/actions/discard-items", &discard).await;
    assert!(
        question.status == 200 && question.body.contains("Discard all items (state=unavailable)?"),
        "{}",
        question.body
    );
    assert_eq!(states(&server).await, of_one([0, 1, 1]), "nothing is lost without the answer");
    let done = ann.post("/actions/discard-items", &[&discard[..], &[("confirmed", "yes")]].concat()).await;
    assert_eq!(done.status, 303, "{}", done.body);
    assert_eq!(states(&server).await, of_one([0, 3, 3]));

    let bob = Browser::of(&server, "bob@example.com").await;
    let page = bob.get("/queue?state=all").await.body;
    assert!(page.contains("segment-two-0") && !page.contains("discard-items"), "he may only read: {page}");
    let eve = Browser::of(&server, "eve@example.com").await;
    let log = eve.get("/system/access-log.json").await.json();
    let entries = log["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| ["retry", "discard"].contains(&one["action"].as_str().unwrap()));
    let entries: Vec<_> =
        entries.map(|one| (one["action"].clone(), one["subject"].clone(), one["sub_account_id"].clone())).collect();
    let expected = [("retry", "segment-one-0", "one"), ("discard", "items state=unavailable", "one")];
    assert_eq!(entries, expected.map(|(action, subject, sub)| (action.into(), subject.into(), sub.into())));
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sinks_are_shown_and_operated_only_by_those_who_see_all_accounts() {
    let server = start().await;
    let ann = Browser::of(&server, "ann@example.com").await;
    let limited = ann.get("/delivery.json").await.json();
    assert_eq!((&limited["sinks"], &limited["may_operate"]), (&serde_json::Value::Null, &false.into()));
    let zoe = Browser::of(&server, "zoe@example.com").await;
    let sinks = zoe.get("/delivery.json").await.json()["sinks"].clone();
    assert_eq!((&sinks[0]["failed"], &sinks[0]["circuit"]), (&1.into(), &"closed".into()), "{sinks}");
    let page = zoe.get("/delivery").await.body;
    assert!(page.contains("422: no such field") && page.contains("Send refused events again"), "{page}");
    let fields = |token| [("token", token), ("back", "/delivery"), ("sink", "crm")];
    let token = ann.token("/queue").await;
    let refused = ann.post("/actions/retry-deliveries", &fields(&token)).await;
    assert_eq!(refused.status, 403, "{}", refused.body);
    let token = zoe.token("/delivery").await;
    let done = zoe.post("/actions/retry-deliveries", &fields(&token)).await;
    assert_eq!(done.status, 303, "{}", done.body);
    let waiting: Option<i64> = server.app.db.value(sql("select state from sink_event")).await.unwrap();
    assert_eq!(waiting, Some(0), "it is sent again");
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completeness_names_what_is_missing_in_the_accounts_of_a_role() {
    let server = start().await;
    let ann = Browser::of(&server, "ann@example.com").await;
    let page = ann.get("/completeness?from=all").await;
    assert!(page.status == 200 && page.body.contains("segment-one-0"), "{}", page.body);
    assert!(!page.body.contains("segment-two") && !page.body.contains("Legal holds"), "{}", page.body);
    let view = ann.get("/completeness.json?from=all").await.json();
    assert_eq!(
        (&view["holds"], view["report"]["accounts"].as_array().unwrap().len()),
        (&serde_json::Value::Null, 1),
        "{view}"
    );
    let report = ann.get("/completeness/report/report.txt?from=all").await;
    assert!(report.status == 200 && report.body.contains("account one"), "{}", report.body);
    assert_eq!(ann.get("/completeness?from=soon").await.status, 400);
    server.shut_down().await;
}
