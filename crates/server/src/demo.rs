//! `seawalld dev --demo`: produces and consumes once, as any client would.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use seawall_proto::log::v1 as log;
use seawall_proto::log::v1::log_client::LogClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// How long the nodes may look for a leader.
const ELECTION_WAIT: Duration = Duration::from_secs(30);

/// How long the demo waits before it asks for the leader again.
const RETRY_WAIT: Duration = Duration::from_millis(100);

/// Produces three records to the nodes at these addresses, and consumes them from each node.
pub(crate) async fn run(addrs: &[SocketAddr]) -> anyhow::Result<()> {
    let first = addrs.first().context("there is no node")?.to_string();
    let mut offset = None;
    for value in ["open", "debit 7", "close"] {
        let produced = tokio::time::timeout(ELECTION_WAIT, produce(&first, value)).await;
        let own = produced.context("the nodes have elected no leader")??;
        writeln!(io::stdout(), "produced {value:?} at offset {own}: it is on the disk")?;
        offset.get_or_insert(own);
    }
    for (id, addr) in (1..).zip(addrs) {
        if addrs.len() > 1 {
            writeln!(io::stdout(), "from node {id}:")?;
        }
        consume(&addr.to_string(), offset.unwrap_or(0)).await?;
    }
    Ok(())
}

async fn client(addr: &str) -> anyhow::Result<LogClient<Channel>> {
    Ok(LogClient::new(Endpoint::from_shared(format!("http://{addr}"))?.connect().await?))
}

/// Produces one record to the node at an address, or to the leader that it names.
async fn produce(first: &str, value: &'static str) -> anyhow::Result<u64> {
    let record = log::Record { value: value.into(), ..log::Record::default() };
    let request = log::ProduceRequest { record: Some(record), ..log::ProduceRequest::default() };
    let mut addr = first.to_owned();
    loop {
        let mut client = match client(&addr).await {
            Ok(client) => client,
            // Members of a group that was at other ports before have yet to tell the new ones.
            Err(_) if addr != first => {
                tokio::time::sleep(RETRY_WAIT).await;
                first.clone_into(&mut addr);
                continue;
            }
            Err(error) => return Err(error),
        };
        match client.produce(request.clone()).await {
            Ok(answer) => return Ok(answer.into_inner().offset),
            Err(status) => match leader_of(&status) {
                Some(leader) if !leader.is_empty() && leader != addr => addr = leader,
                Some(_) => tokio::time::sleep(RETRY_WAIT).await,
                None => return Err(status.into()),
            },
        }
    }
}

/// Returns the address of the leader if the node refused because it does not lead. The address is
/// empty if the node knows no leader. The record was not appended then.
fn leader_of(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    let is_it = status.code() == Code::FailedPrecondition && info.reason == "NOT_LEADER";
    is_it.then(|| info.metadata.get("leader").cloned().unwrap_or_default())
}

async fn consume(addr: &str, offset: u64) -> anyhow::Result<()> {
    let request = log::ConsumeRequest { offset, ..Default::default() };
    let mut answers = client(addr).await?.consume_stream(request).await?.into_inner();
    for _ in 0..3 {
        let Some(answer) = answers.message().await? else { break };
        let record = answer.record.unwrap_or_default();
        let value = String::from_utf8_lossy(&record.value).into_owned();
        writeln!(io::stdout(), "consumed {value:?} from offset {}", record.offset)?;
    }
    Ok(())
}
