//! Streams and cursors.

use std::time::Duration;

use seawall_proto::admin::v1::admin_client::AdminClient;
use seawall_proto::admin::v1::{self, CommitCursorRequest, ListStreamsRequest};
use tonic::transport::Channel;

use crate::client::{Client, with_timeout};
use crate::error::Error;
use crate::nodes::Node;
use crate::retry::Attempts;

/// How long a stream keeps its records. `None` sets no limit; the limits of the cluster hold in any
/// case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// The oldest age, in milliseconds.
    pub age_ms: Option<u64>,
    /// The bytes of the records.
    pub bytes: Option<u64>,
    /// The number of records.
    pub records: Option<u64>,
}

/// What a stream holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamInfo {
    /// The name.
    pub stream: String,
    /// The first retained record.
    pub first_offset: u64,
    /// The offset that the next record gets.
    pub next_offset: u64,
    /// Bytes of the retained records: values, keys and headers.
    pub bytes: u64,
    /// How long the stream keeps its records.
    pub limits: Limits,
    /// The time of the newest record, in milliseconds since 1970; 0 if there was none.
    pub newest_ms: u64,
    /// Empty in a list of all streams.
    pub cursors: Vec<CursorInfo>,
}

/// Where a consumer stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CursorInfo {
    /// The cursor's name.
    pub name: String,
    /// The offset of the next record that the consumer wants.
    pub offset: u64,
}

/// What a stream holds: the records from `first` up to, not including, `next`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Offsets {
    /// The first retained record.
    pub first: u64,
    /// The offset that the next record gets.
    pub next: u64,
}

impl Client {
    /// Creates a stream. If an answer was lost and the stream then exists with these limits, the
    /// call succeeds.
    ///
    /// # Errors
    ///
    /// [`Error::StreamExists`], [`Error::LimitReached`], [`Error::BadRequest`] for a bad name.
    pub async fn create_stream(&self, stream: &str, limits: Limits) -> Result<(), Error> {
        let request =
            v1::CreateStreamRequest { stream: stream.to_owned(), limits: Some(limits.into()) };
        let mut attempts = Attempts::new(&self.nodes, "create", stream);
        let call = |node: Node, time: Duration| {
            let request = with_timeout(request.clone(), time);
            async move { admin(node.channel).create_stream(request).await }
        };
        match attempts.run(call).await {
            Ok(_) => Ok(()),
            Err(error @ Error::StreamExists { .. }) if attempts.was_lost => {
                let own = self.stream(stream).await?;
                if own.limits == limits { Ok(()) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a stream with its records and cursors.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchStream`], unless an answer was lost.
    pub async fn delete_stream(&self, stream: &str) -> Result<(), Error> {
        let request = v1::DeleteStreamRequest { stream: stream.to_owned() };
        let mut attempts = Attempts::new(&self.nodes, "delete", stream);
        let call = |node: Node, time: Duration| {
            let request = with_timeout(request.clone(), time);
            async move { admin(node.channel).delete_stream(request).await }
        };
        match attempts.run(call).await {
            Ok(_) => Ok(()),
            Err(Error::NoSuchStream { .. }) if attempts.was_lost => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Changes how long a stream keeps its records.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchStream`].
    pub async fn set_limits(&self, stream: &str, limits: Limits) -> Result<(), Error> {
        let request =
            v1::SetLimitsRequest { stream: stream.to_owned(), limits: Some(limits.into()) };
        let call = |node: Node, time: Duration| {
            let request = with_timeout(request.clone(), time);
            async move { admin(node.channel).set_limits(request).await }
        };
        Attempts::new(&self.nodes, "set limits", stream).run(call).await.map(drop)
    }

    /// Returns all streams, without their cursors.
    ///
    /// # Errors
    ///
    /// [`Error::Deadline`].
    pub async fn list_streams(&self) -> Result<Vec<StreamInfo>, Error> {
        self.list("").await
    }

    /// Returns what a stream holds, with its cursors.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchStream`].
    pub async fn stream(&self, stream: &str) -> Result<StreamInfo, Error> {
        let name = if stream.is_empty() { "default" } else { stream };
        let found = self.list(name).await?.into_iter().next();
        let missing = Error::NoSuchStream { address: "the cluster".into(), stream: name.into() };
        found.ok_or(missing)
    }

    async fn list(&self, stream: &str) -> Result<Vec<StreamInfo>, Error> {
        // A node that lags would leave out a stream that was just created.
        self.nodes.learn_leader().await;
        let request = ListStreamsRequest { stream: stream.to_owned() };
        let call = |node: Node, time: Duration| {
            let request = with_timeout(request.clone(), time);
            async move { admin(node.channel).list_streams(request).await }
        };
        let answer =
            Attempts::new(&self.nodes, "list", stream).question().of_any_node().run(call).await?;
        Ok(answer.streams.into_iter().map(StreamInfo::from).collect())
    }

    /// Removes the records below an offset. Returns the new first offset.
    ///
    /// # Errors
    ///
    /// [`Error::OffsetOutOfRange`] if the offset is beyond the end.
    pub async fn trim(&self, stream: &str, before_offset: u64) -> Result<u64, Error> {
        let request = v1::TrimRequest { stream: stream.to_owned(), before_offset };
        let call = |node: Node, time: Duration| {
            let request = with_timeout(request.clone(), time);
            async move { admin(node.channel).trim(request).await }
        };
        let answer = Attempts::new(&self.nodes, "trim", stream).run(call).await?;
        Ok(answer.first_offset)
    }

    /// Returns which offsets a stream holds. Linearizable: the answer knows each record that was
    /// acknowledged before the call.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchStream`].
    pub async fn offsets(&self, stream: &str) -> Result<Offsets, Error> {
        let request = v1::OffsetsRequest { stream: stream.to_owned(), local: false };
        let call = |node: Node, time: Duration| {
            let request = with_timeout(request.clone(), time);
            async move { admin(node.channel).offsets(request).await }
        };
        let answer = Attempts::new(&self.nodes, "offsets", stream)
            .question()
            .of_any_node()
            .run(call)
            .await?;
        Ok(Offsets { first: answer.first_offset, next: answer.next_offset })
    }

    /// Stores where a consumer stands: the offset of the next record that it wants.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchStream`], [`Error::LimitReached`], [`Error::BadRequest`] for a bad name.
    pub async fn commit_cursor(
        &self,
        stream: &str,
        cursor: &str,
        offset: u64,
    ) -> Result<(), Error> {
        let cursor = cursor.to_owned();
        let request = CommitCursorRequest { stream: stream.to_owned(), cursor, offset };
        let call = |node: Node, time: Duration| {
            let request = with_timeout(request.clone(), time);
            async move { admin(node.channel).commit_cursor(request).await }
        };
        Attempts::new(&self.nodes, "commit cursor", stream).run(call).await.map(drop)
    }

    /// Returns where a cursor stands; `None` if there is no such cursor.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchStream`].
    pub async fn fetch_cursor(&self, stream: &str, cursor: &str) -> Result<Option<u64>, Error> {
        let request =
            v1::FetchCursorRequest { stream: stream.to_owned(), cursor: cursor.to_owned() };
        let call = |node: Node, time: Duration| {
            let request = with_timeout(request.clone(), time);
            async move { admin(node.channel).fetch_cursor(request).await }
        };
        let answer = Attempts::new(&self.nodes, "fetch cursor", stream)
            .question()
            .of_any_node()
            .run(call)
            .await?;
        Ok(answer.offset)
    }
}

pub(crate) fn admin(channel: Channel) -> AdminClient<Channel> {
    AdminClient::new(channel)
}

impl From<Limits> for v1::Limits {
    fn from(limits: Limits) -> v1::Limits {
        v1::Limits {
            age_ms: limits.age_ms.unwrap_or(0),
            bytes: limits.bytes.unwrap_or(0),
            records: limits.records.unwrap_or(0),
        }
    }
}

impl From<v1::StreamInfo> for StreamInfo {
    fn from(info: v1::StreamInfo) -> StreamInfo {
        let limits = info.limits.unwrap_or_default();
        let some = |limit: u64| Some(limit).filter(|limit| *limit > 0);
        let cursors = info.cursors.into_iter();
        StreamInfo {
            stream: info.stream,
            first_offset: info.first_offset,
            next_offset: info.next_offset,
            bytes: info.bytes,
            limits: Limits {
                age_ms: some(limits.age_ms),
                bytes: some(limits.bytes),
                records: some(limits.records),
            },
            newest_ms: info.newest_ms,
            cursors: cursors.map(|own| CursorInfo { name: own.name, offset: own.offset }).collect(),
        }
    }
}
