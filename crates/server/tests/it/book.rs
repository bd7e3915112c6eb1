//! A client that knows the fields of the book "Distributed Services with Go" and no others.

use std::collections::HashMap;

use prost::Message;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use crate::common::{config, connect, run, start};

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(bytes = "vec", tag = "1")]
    value: Vec<u8>,
    #[prost(uint64, tag = "2")]
    offset: u64,
    #[prost(uint64, tag = "3")]
    term: u64,
    #[prost(uint32, tag = "4")]
    kind: u32,
}

#[derive(Clone, PartialEq, Message)]
struct ProduceRequest {
    #[prost(message, optional, tag = "1")]
    record: Option<Record>,
}

#[derive(Clone, PartialEq, Message)]
struct ProduceResponse {
    #[prost(uint64, tag = "1")]
    offset: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ConsumeRequest {
    #[prost(uint64, tag = "1")]
    offset: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ConsumeResponse {
    #[prost(message, optional, tag = "2")]
    record: Option<Record>,
}

#[derive(Clone, PartialEq, Message)]
struct GetServersRequest {}

#[derive(Clone, PartialEq, Message)]
struct Server {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    rpc_addr: String,
    #[prost(bool, tag = "3")]
    is_leader: bool,
}

#[derive(Clone, PartialEq, Message)]
struct GetServersResponse {
    #[prost(message, repeated, tag = "1")]
    servers: Vec<Server>,
}

/// A field that the client does not know must not disturb it.
async fn call<Q, A>(grpc: &mut Grpc<Channel>, method: &'static str, request: Q) -> A
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<Q, A>::default();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(method);
    grpc.unary(tonic::Request::new(request), path, codec).await.unwrap().into_inner()
}

#[test]
fn a_client_of_the_book_produces_and_consumes() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut grpc = Grpc::new(connect(server.addr).await);
        for (offset, value) in ["first message", "second message"].into_iter().enumerate() {
            let record = Record { value: value.into(), ..Record::default() };
            let request = ProduceRequest { record: Some(record) };
            let answer: ProduceResponse = call(&mut grpc, "/log.v1.Log/Produce", request).await;
            assert_eq!(answer.offset, offset as u64);
            let request = ConsumeRequest { offset: answer.offset };
            let answer: ConsumeResponse = call(&mut grpc, "/log.v1.Log/Consume", request).await;
            let record = answer.record.unwrap();
            assert_eq!(record.value, value.as_bytes());
            assert_eq!(record.offset, offset as u64);
        }

        grpc.ready().await.unwrap();
        let path =
            tonic::codegen::http::uri::PathAndQuery::from_static("/log.v1.Log/ConsumeStream");
        let codec = ProstCodec::<ConsumeRequest, ConsumeResponse>::default();
        let request = tonic::Request::new(ConsumeRequest { offset: 0 });
        let mut answers = grpc.server_streaming(request, path, codec).await.unwrap().into_inner();
        for offset in 0..2 {
            let record = answers.message().await.unwrap().unwrap().record.unwrap();
            assert_eq!(record.offset, offset);
        }

        grpc.ready().await.unwrap();
        let path =
            tonic::codegen::http::uri::PathAndQuery::from_static("/log.v1.Log/ProduceStream");
        let codec = ProstCodec::<ProduceRequest, ProduceResponse>::default();
        let requests = ["third", "fourth"].map(|value| ProduceRequest {
            record: Some(Record { value: value.into(), ..Record::default() }),
        });
        let request = tonic::Request::new(futures_util::stream::iter(requests));
        let mut answers = grpc.streaming(request, path, codec).await.unwrap().into_inner();
        for offset in 2..4 {
            assert_eq!(answers.message().await.unwrap().unwrap().offset, offset);
        }

        let answer: GetServersResponse =
            call(&mut grpc, "/log.v1.Log/GetServers", GetServersRequest {}).await;
        let found: HashMap<String, bool> = answer
            .servers
            .iter()
            .map(|server| (server.rpc_addr.clone(), server.is_leader))
            .collect();
        assert_eq!(found, HashMap::from([(server.addr.to_string(), true)]));
        server.stop().await.unwrap();
    });
}
