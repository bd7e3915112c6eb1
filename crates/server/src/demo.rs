//! `seawalld dev --demo`: produces and consumes once, as any client would.

use std::io::{self, Write as _};
use std::net::SocketAddr;

use seawall_proto::log::v1 as log;
use tonic::transport::Endpoint;

/// Produces three records to the server at this address, and consumes them.
pub(crate) async fn run(addr: SocketAddr) -> anyhow::Result<()> {
    let channel = Endpoint::from_shared(format!("http://{addr}"))?.connect().await?;
    let mut client = log::log_client::LogClient::new(channel);
    let mut first = None;
    for value in ["open", "debit 7", "close"] {
        let record = log::Record { value: value.into(), ..log::Record::default() };
        let request =
            log::ProduceRequest { record: Some(record), ..log::ProduceRequest::default() };
        let offset = client.produce(request).await?.into_inner().offset;
        writeln!(io::stdout(), "produced {value:?} at offset {offset}: it is on the disk")?;
        first.get_or_insert(offset);
    }
    let request = log::ConsumeRequest { offset: first.unwrap_or(0), ..Default::default() };
    let mut answers = client.consume_stream(request).await?.into_inner();
    for _ in 0..3 {
        let Some(answer) = answers.message().await? else { break };
        let record = answer.record.unwrap_or_default();
        let value = String::from_utf8_lossy(&record.value).into_owned();
        writeln!(io::stdout(), "consumed {value:?} from offset {}", record.offset)?;
    }
    Ok(())
}
