//! `seawall.admin.v1.Admin`: streams, cursors, status.

use seawall_proto::admin::v1 as admin;
use seawall_proto::store::v1 as store;
use store::operation::Action as Change;
use tonic::metadata::MetadataValue;
use tonic::{Extensions, Request, Response, Status};

use super::stream_name;
use crate::authz::Action;
use crate::error::RequestError;
use crate::guard::Guard;
use crate::join::JoinError;
use crate::node::{GROUP, Node, Running, State};
use crate::raft::Group;
use crate::streams::{Outcome, Stream};

/// Says that a node has passed a request on to another one.
const PASSED_ON: &str = "seawall-passed-on";

/// The service. Clones serve the same node.
#[derive(Clone)]
pub(crate) struct AdminService {
    pub(crate) node: Node,
    pub(crate) guard: Guard,
}

impl AdminService {
    /// Checks who asks, and returns the parts of the node.
    fn admit(
        &self,
        extensions: &Extensions,
        action: Action,
        stream: &str,
    ) -> Result<&Running, Status> {
        self.guard.authorize(extensions, action, stream)?;
        Ok(self.node.running()?)
    }

    async fn change(
        &self,
        extensions: &Extensions,
        action: Action,
        stream: &str,
        change: Change,
    ) -> Result<Outcome, Status> {
        let running = self.admit(extensions, action, stream)?;
        // In the queue, it would wait for what has no outcome without a majority.
        running.group.check_leads().map_err(RequestError::from)?;
        Ok(running.queue.change(change).await?)
    }
}

#[tonic::async_trait]
impl admin::admin_server::Admin for AdminService {
    async fn create_stream(
        &self,
        request: Request<admin::CreateStreamRequest>,
    ) -> Result<Response<admin::CreateStreamResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let stream = request.stream;
        let limits = request.limits.map(to_stored);
        let create = Change::Create(store::CreateStream { stream: stream.clone(), limits });
        self.change(&extensions, Action::Admin, &stream, create).await?;
        Ok(Response::new(admin::CreateStreamResponse {}))
    }

    async fn delete_stream(
        &self,
        request: Request<admin::DeleteStreamRequest>,
    ) -> Result<Response<admin::DeleteStreamResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let stream = request.stream;
        let delete = Change::Delete(store::DeleteStream { stream: stream.clone() });
        self.change(&extensions, Action::Admin, &stream, delete).await?;
        Ok(Response::new(admin::DeleteStreamResponse {}))
    }

    async fn set_limits(
        &self,
        request: Request<admin::SetLimitsRequest>,
    ) -> Result<Response<admin::SetLimitsResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let stream = stream_name(request.stream);
        let limits = request.limits.map(to_stored);
        let set = Change::SetLimits(store::SetLimits { stream: stream.clone(), limits });
        self.change(&extensions, Action::Admin, &stream, set).await?;
        Ok(Response::new(admin::SetLimitsResponse {}))
    }

    async fn list_streams(
        &self,
        request: Request<admin::ListStreamsRequest>,
    ) -> Result<Response<admin::ListStreamsResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let caller = self.guard.caller(&extensions)?;
        match request.stream.as_str() {
            "" => caller.check_cluster(Action::Consume)?,
            stream => caller.check(Action::Consume, stream)?,
        }
        let running = self.node.running()?;
        running.group.linearize().await.map_err(RequestError::from)?;
        let applied = running.group.applied();
        let streams = if request.stream.is_empty() {
            applied.index.streams().map(|(name, stream)| to_info(name, stream)).collect()
        } else {
            let name = &request.stream;
            let stream = applied.index.stream(name);
            let stream = stream.ok_or(RequestError::NoSuchStream { stream: name.clone() })?;
            let cursors = stream
                .cursors()
                .map(|(name, offset)| admin::Cursor { name: name.to_owned(), offset });
            vec![admin::StreamInfo { cursors: cursors.collect(), ..to_info(name, stream) }]
        };
        Ok(Response::new(admin::ListStreamsResponse { streams }))
    }

    async fn trim(
        &self,
        request: Request<admin::TrimRequest>,
    ) -> Result<Response<admin::TrimResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let stream = stream_name(request.stream);
        let before_offset = request.before_offset;
        let trim = Change::Trim(store::Trim { stream: stream.clone(), before_offset });
        match self.change(&extensions, Action::Admin, &stream, trim).await? {
            Outcome::Trimmed { first_offset } => {
                Ok(Response::new(admin::TrimResponse { first_offset }))
            }
            outcome => Err(Status::internal(format!("a trim had the outcome {outcome:?}"))),
        }
    }

    async fn offsets(
        &self,
        request: Request<admin::OffsetsRequest>,
    ) -> Result<Response<admin::OffsetsResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let stream = stream_name(request.stream);
        let running = self.admit(&extensions, Action::Consume, &stream)?;
        if !request.local {
            running.group.linearize().await.map_err(RequestError::from)?;
        }
        let found = running.reader.offsets(&stream)?;
        Ok(Response::new(admin::OffsetsResponse {
            first_offset: found.first,
            next_offset: found.next,
        }))
    }

    async fn commit_cursor(
        &self,
        request: Request<admin::CommitCursorRequest>,
    ) -> Result<Response<admin::CommitCursorResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let stream = stream_name(request.stream);
        let commit = Change::CommitCursor(store::CommitCursor {
            stream: stream.clone(),
            cursor: request.cursor,
            offset: request.offset,
        });
        self.change(&extensions, Action::Consume, &stream, commit).await?;
        Ok(Response::new(admin::CommitCursorResponse {}))
    }

    async fn fetch_cursor(
        &self,
        request: Request<admin::FetchCursorRequest>,
    ) -> Result<Response<admin::FetchCursorResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let stream = stream_name(request.stream);
        let running = self.admit(&extensions, Action::Consume, &stream)?;
        running.group.linearize().await.map_err(RequestError::from)?;
        let applied = running.group.applied();
        let found = applied.index.stream(&stream).ok_or(RequestError::NoSuchStream { stream })?;
        let offset = found.cursor(&request.cursor);
        Ok(Response::new(admin::FetchCursorResponse { offset }))
    }

    async fn status(
        &self,
        request: Request<admin::StatusRequest>,
    ) -> Result<Response<admin::StatusResponse>, Status> {
        self.guard.check_cluster(&request, Action::Admin)?;
        Ok(Response::new(to_status(&self.node)))
    }

    async fn bootstrap(
        &self,
        request: Request<admin::BootstrapRequest>,
    ) -> Result<Response<admin::BootstrapResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let caller = self.guard.caller(&extensions)?;
        // A node passes on what an operator asked it.
        if caller.check_cluster(Action::Peer).is_err() {
            caller.check_cluster(Action::Admin)?;
        }
        let addrs = request.addrs;
        let seat = self.node.seat()?;
        // One node makes the group, whichever is asked: two could make two groups.
        // An address may be another name of this node, so it is passed on once.
        let is_here = |addr: &String| addr == seat.own.addr();
        match addrs.iter().min() {
            Some(first)
                if !is_here(first)
                    && addrs.iter().any(is_here)
                    && !metadata.contains_key(PASSED_ON) =>
            {
                let mut client = seat.peers.admin_at(first).map_err(JoinError::from)?;
                let mut request = Request::new(admin::BootstrapRequest { addrs });
                request.metadata_mut().insert(PASSED_ON, MetadataValue::from_static("yes"));
                client.bootstrap(request).await
            }
            _ => {
                seat.bootstrap(&addrs).await?;
                let members = to_members(&seat.group);
                Ok(Response::new(admin::BootstrapResponse { members }))
            }
        }
    }

    async fn join(
        &self,
        request: Request<admin::JoinRequest>,
    ) -> Result<Response<admin::JoinResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let caller = self.guard.caller(&extensions)?;
        // A node speaks for itself. An operator names another one.
        match request.applicant {
            Some(_) => caller.check_cluster(Action::Peer)?,
            None => caller.check_cluster(Action::Admin)?,
        }
        let seat = self.node.seat()?;
        seat.admit(request).await?;
        Ok(Response::new(admin::JoinResponse { members: to_members(&seat.group) }))
    }

    async fn leave(
        &self,
        request: Request<admin::LeaveRequest>,
    ) -> Result<Response<admin::LeaveResponse>, Status> {
        self.guard.check_cluster(&request, Action::Admin)?;
        let seat = self.node.seat()?;
        seat.dismiss(request.into_inner().node_id).await?;
        Ok(Response::new(admin::LeaveResponse { members: to_members(&seat.group) }))
    }
}

fn to_members(group: &Group) -> Vec<admin::Member> {
    let members = group.members().into_iter().map(|member| admin::Member {
        node_id: member.node_id,
        addr: member.addr,
        is_voter: member.is_voter,
        is_leader: member.is_leader,
        matched_index: member.matched_index,
    });
    members.collect()
}

/// Returns what the node is and does. In any state.
pub(crate) fn to_status(node: &Node) -> admin::StatusResponse {
    let config = node.config();
    let (state, mut refuses) = match node.state() {
        State::Starting => ("starting", "the node is starting".to_owned()),
        State::Serving => ("serving", String::new()),
        State::Draining => ("draining", "the node is stopping".to_owned()),
        State::Failed(reason) => ("failed", reason),
    };
    let mut status = admin::StatusResponse {
        cluster: config.cluster.clone(),
        node_id: config.node_id,
        group: GROUP,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state: state.to_owned(),
        rpc_addr: node.addr().to_owned(),
        uptime_ms: u64::try_from(node.uptime().as_millis()).unwrap_or(u64::MAX),
        ..admin::StatusResponse::default()
    };
    if let Some(running) = node.parts() {
        let standing = running.group.standing();
        if refuses.is_empty() {
            refuses = running.space.refusal().unwrap_or_default();
        }
        status.term = standing.term;
        status.leader_id = standing.leader.unwrap_or(0);
        status.last_index = standing.last_index;
        status.committed_index = standing.committed_index;
        status.applied_index = standing.applied_index;
        status.purged_index = standing.purged_index;
        status.log_bytes = standing.log_bytes;
        let figures = running.queue.figures();
        status.proposals = figures.proposals;
        status.operations = figures.operations;
        status.records = figures.records;
        status.syncs = running.group.log_stats().syncs;
        status.free_bytes = running.space.free_bytes();
        status.streams = running.group.applied().index.streams().count() as u64;
    }
    if let Ok(seat) = node.seat() {
        status.members = to_members(&seat.group);
        status.members_changing = seat.group.members_are_changing();
        status.warning = seat.warning();
    }
    status.refuses = refuses;
    status
}

fn to_stored(limits: admin::Limits) -> store::StoredLimits {
    store::StoredLimits { age_ms: limits.age_ms, bytes: limits.bytes, records: limits.records }
}

fn to_info(name: &str, stream: &Stream) -> admin::StreamInfo {
    let limits = stream.limits();
    admin::StreamInfo {
        stream: name.to_owned(),
        first_offset: stream.first_offset(),
        next_offset: stream.next_offset(),
        bytes: stream.bytes(),
        limits: Some(admin::Limits {
            age_ms: limits.age_ms,
            bytes: limits.bytes,
            records: limits.records,
        }),
        newest_ms: stream.newest_ms(),
        cursors: Vec::new(),
    }
}
