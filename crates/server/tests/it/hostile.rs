//! Clients that hold back what they should send, and those beside them.

use futures_util::{StreamExt as _, stream};
use http::uri::PathAndQuery;
use seawall_proto::log::v1 as log;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::common::{config, connect, one, refused, run, start};

/// Calls `Produce` with a whole request, and does not end the call.
async fn produce_without_end(channel: Channel, request: log::ProduceRequest) -> Status {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let requests = Request::new(stream::iter([request]).chain(stream::pending()));
    let codec = ProstCodec::<log::ProduceRequest, log::ProduceResponse>::default();
    let path = PathAndQuery::from_static("/log.v1.Log/Produce");
    client.client_streaming(requests, path, codec).await.unwrap_err()
}

#[test]
fn requests_that_do_not_end_share_a_bound_and_the_others_are_served() {
    // Method: more of such calls than the room holds, each on a connection of its own. Then calls
    // with no records, and one with, before and after the clients have gone.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.limits.queue_bytes = bytesize::ByteSize::mib(4);
        let server = start(config).await;
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let channel = connect(server.addr).await;
            clients.spawn(produce_without_end(channel, one("", vec![1; 1 << 20])));
        }
        // The room has 8 MiB, and each request is a little larger than 1 MiB.
        for _ in 0..3 {
            refused(
                clients.join_next().await.unwrap().unwrap(),
                Code::ResourceExhausted,
                "QUEUE_FULL",
            );
        }
        let mut client = server.log().await;
        let status = client.produce(one("", vec![2; 1 << 20])).await.unwrap_err();
        refused(status, Code::ResourceExhausted, "QUEUE_FULL");
        let servers = client.get_servers(log::GetServersRequest {}).await.unwrap();
        assert_eq!(servers.into_inner().servers.len(), 1, "questions need no room");
        clients.shutdown().await;
        let offset = loop {
            match client.produce(one("", vec![2; 1 << 20])).await {
                Ok(answer) => break answer.into_inner().offset,
                Err(status) => refused(status, Code::ResourceExhausted, "QUEUE_FULL"),
            };
        };
        assert_eq!(offset, 0, "no request without an end was appended");
        server.stop().await.unwrap();
    });
}

#[test]
fn a_question_is_small_or_refused() {
    // Method: the name of a stream that is longer than each question may be.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let name = "a".repeat(16 << 10);
        let question = log::ConsumeRequest { stream: name.clone(), ..Default::default() };
        let status = server.log().await.consume(question).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
        let question =
            seawall_proto::admin::v1::OffsetsRequest { stream: name, ..Default::default() };
        let status = server.admin().await.offsets(question).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
        server.stop().await.unwrap();
    });
}
