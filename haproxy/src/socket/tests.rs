//! The dialogue with an HAProxy that misbehaves. `real_tests` has the one that does not.

use std::path::PathBuf;

use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::*;

const WITHIN: Duration = Duration::from_millis(300);

const GREETED: &str = "\n> \n> admin\n\n> ";

/// A socket that greets, then takes a request and says `then`; with `close` it closes, else it stays open until dropped.
fn peer(then: &'static str, close: bool) -> (TempDir, PathBuf, JoinHandle<()>) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("haproxy.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = [0; 1024];
        assert!(stream.read(&mut heard).await.unwrap() > 0);
        stream.write_all(GREETED.as_bytes()).await.unwrap();
        assert!(stream.read(&mut heard).await.unwrap() > 0);
        stream.write_all(then.as_bytes()).await.unwrap();
        if !close {
            std::future::pending::<()>().await;
        }
    });
    (folder, path, task)
}

async fn ask(
    then: &'static str,
    close: bool,
    count: usize,
) -> (Dialogue, Result<Vec<String>, DialogueError>) {
    let (_folder, path, _task) = peer(then, close);
    let mut dialogue = Dialogue::connect(&path, WITHIN).await.unwrap();
    let answers = dialogue.ask(&vec![Command::ShowInfo; count]).await;
    (dialogue, answers)
}

#[tokio::test]
async fn answers_come_in_order() {
    let (_, answers) = ask("one\n\n> \n> three\n> ", false, 3).await;
    assert_eq!(answers.unwrap(), ["one\n", "", "three"]);
}

#[tokio::test]
async fn no_commands_no_answers() {
    let (_, answers) = ask("", false, 0).await;
    assert_eq!(answers.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_failure_spends_the_session() {
    for (then, close, why) in [
        ("half an ans", true, "HAProxy closed the session"),
        ("half an ans", false, "HAProxy did not answer within 300ms"),
        ("one\n> two\n> ", false, "HAProxy said something that was not asked for"),
    ] {
        let (mut dialogue, answers) = ask(then, close, 1).await;
        assert_eq!(answers.unwrap_err().to_string(), why);
        assert!(matches!(dialogue.ask(&[Command::ShowInfo]).await, Err(DialogueError::Spent)));
        assert!(matches!(dialogue.closed().await, DialogueError::Spent));
    }
}

#[tokio::test]
async fn giving_up_on_a_request_spends_the_session() {
    let (_folder, path, _task) = peer("", false);
    let mut dialogue = Dialogue::connect(&path, WITHIN).await.unwrap();
    let gave_up = timeout(WITHIN / 10, dialogue.ask(&[Command::ShowInfo])).await;
    assert!(gave_up.is_err());
    assert!(matches!(dialogue.ask(&[Command::ShowInfo]).await, Err(DialogueError::Spent)));
}

#[tokio::test]
async fn words_out_of_turn_end_the_session() {
    let (_folder, path, _task) = peer("one\n> ", false);
    let mut dialogue = Dialogue::connect(&path, WITHIN).await.unwrap();
    dialogue.stream.writable().await.unwrap();
    dialogue.stream.try_write(b"\n").unwrap();
    assert!(matches!(dialogue.closed().await, DialogueError::OutOfStep));
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_with_its_remedy() {
    let folder = TempDir::new().unwrap();
    let missing = Dialogue::connect(&folder.path().join("none.sock"), WITHIN).await.unwrap_err();
    assert!(matches!(missing, DialogueError::Missing(_)));
    assert!(missing.to_string().contains("is it running"), "{missing}");

    let left = folder.path().join("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    assert!(matches!(Dialogue::connect(&left, WITHIN).await.unwrap_err(), DialogueError::Refused(_)));

    let silent = folder.path().join("silent.sock");
    let _listener = UnixListener::bind(&silent).unwrap();
    let error = Dialogue::connect(&silent, WITHIN).await.unwrap_err();
    assert!(matches!(error, DialogueError::Silent { .. }) && error.to_string().contains("10"), "{error}");
}
