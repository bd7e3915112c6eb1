//! A consumer that commits where it stands. Each commit has an offset of its own and is sent once,
//! so that the checker can tell them apart.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use seawall_proto::admin::v1 as admin;
use seawall_proto::admin::v1::admin_client::AdminClient;
use seawall_testkit::Dice;
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic::transport::Channel;

use super::{
    ANSWER_WAIT, Channels, FOR_READERS, FOR_WRITERS, PRODUCE_WAIT_MS, STREAMS, Shared, is_refusal,
};
use crate::checker::Kind;
use crate::history::{CommitOutcome, CursorCommit, CursorRead, Event, Recorder};

/// The cursor of each stream.
const CURSOR: &str = "consumer";

/// A commit. It is noted when it is dropped, as a request to append.
struct Asked {
    recorder: Recorder,
    commit: CursorCommit,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.commit.end = self.recorder.now();
        self.recorder.note(Event::CursorCommit(self.commit.clone()));
    }
}

/// Commits rising offsets, up to the end that its stream is known to have.
pub(super) struct Committer {
    shared: Arc<Shared>,
    stream: usize,
    session: u32,
    writes: Channels,
    reads: Channels,
    dice: Dice,
    next: u64,
}

impl Committer {
    pub(super) fn new(shared: &Arc<Shared>, stream: usize) -> Committer {
        let number = u32::try_from(stream).unwrap_or(0);
        Committer {
            shared: shared.clone(),
            stream,
            session: 50 + number,
            writes: Channels::new(&shared.cluster, FOR_WRITERS),
            reads: Channels::new(&shared.cluster, FOR_READERS),
            dice: Dice::of(&[shared.seed, 6, number.into()]),
            next: 0,
        }
    }

    pub(super) async fn run(mut self) {
        while !self.shared.stop_writing.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(10 + self.dice.below(100))).await;
            let end = self.shared.ends[self.stream].load(Ordering::Relaxed);
            if self.next <= end {
                let offset = end.min(self.next + self.dice.below(3));
                self.commit(offset).await;
                self.next = offset + 1;
            }
            if self.dice.coin() {
                let node = *self.dice.pick(&self.shared.cluster.serving());
                let recorder = &self.shared.cluster.recorder;
                let client = self.reads.admin(node);
                let _silent = read_cursor(recorder, client, self.session, node, self.stream).await;
            }
        }
    }

    async fn commit(&mut self, offset: u64) {
        let recorder = self.shared.cluster.recorder.clone();
        let node = self.shared.target(&mut self.dice, 0);
        let start = recorder.now();
        let outcome = CommitOutcome::Unknown;
        let stream = self.stream;
        let commit = CursorCommit { stream, cursor: 0, offset, start, end: start, outcome };
        let mut asked_for = Asked { recorder, commit };
        let request = admin::CommitCursorRequest {
            stream: STREAMS[stream].to_owned(),
            cursor: CURSOR.to_owned(),
            offset,
        };
        let mut client = self.writes.admin(node);
        let wait = Duration::from_millis(*self.dice.pick(&PRODUCE_WAIT_MS));
        match timeout(wait, client.commit_cursor(request)).await {
            Ok(Ok(_)) => asked_for.commit.outcome = CommitOutcome::Acknowledged,
            Ok(Err(status)) => {
                self.shared.learn(&status);
                if status.code() == Code::OutOfRange {
                    let text = format!("s{stream}: {offset} was told as the end, and: {status}");
                    self.shared.cluster.blame(Kind::Stale, text);
                }
                if is_refusal(&status) {
                    asked_for.commit.outcome = CommitOutcome::Refused;
                }
            }
            Err(_) => {}
        }
    }
}

/// Asks a node where the cursor of a stream stands, and notes the answer. `None` without one.
pub(crate) async fn read_cursor(
    recorder: &Recorder,
    mut client: AdminClient<Channel>,
    session: u32,
    node: u64,
    stream: usize,
) -> Option<()> {
    let start = recorder.now();
    let request =
        admin::FetchCursorRequest { stream: STREAMS[stream].to_owned(), cursor: CURSOR.to_owned() };
    let answer = timeout(ANSWER_WAIT, client.fetch_cursor(request)).await.ok()?.ok()?;
    let offset = answer.into_inner().offset;
    let end = recorder.now();
    recorder.note(Event::CursorRead(CursorRead {
        session,
        node,
        stream,
        cursor: 0,
        start,
        end,
        offset,
    }));
    Some(())
}
