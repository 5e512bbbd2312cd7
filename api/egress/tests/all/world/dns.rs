//! A resolver with a zone of its own, over UDP and TCP.

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::CNAME;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

/// What each name has: addresses, or the name that it is an alias of. A name with several sets changes with each
/// lookup, to the last one.
const ZONE: [(&str, &[&[&str]]); 16] = [
    ("allowed.example", &[&["93.184.216.34"]]),
    ("sub.allowed.example", &[&["93.184.216.35"]]),
    ("other.example", &[&["93.184.216.35"]]),
    ("six.example", &[&["2606:2800::34"]]),
    ("dual.example", &[&["93.184.216.34", "2606:2800::34"]]),
    ("inside.example", &[&["10.1.2.3"]]),
    ("metadata.google.internal", &[&["169.254.169.254"]]),
    ("mixed.example", &[&["93.184.216.34", "10.1.2.3"]]),
    ("mixed6.example", &[&["93.184.216.34", "fd00:ec2::254"]]),
    ("mapped.example", &[&["::ffff:169.254.169.254"]]),
    ("nat64.example", &[&["64:ff9b::a9fe:a9fe"]]),
    ("alias.example", &[&["inside.example"]]),
    ("alias-of-alias.example", &[&["alias.example"]]),
    ("good-alias.example", &[&["allowed.example"]]),
    ("rebinding.example", &[&["93.184.216.34"], &["127.0.0.1"]]),
    ("self.example", &[&["5.9.9.9"]]),
];
/// A name with so many addresses that they do not fit into a datagram. The last one is of the inside.
const LONG: &str = "long.example";

#[derive(Default)]
pub struct Dns {
    queries: Mutex<Vec<String>>,
    lookups: Mutex<HashMap<(String, RecordType), usize>>,
}

impl Dns {
    pub fn take_queries(&self) -> Vec<String> {
        std::mem::take(&mut self.queries.lock().unwrap())
    }

    fn answer(&self, query: &[u8], bytes_max: usize) -> Vec<u8> {
        let query = Message::from_vec(query).unwrap();
        let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
        answer.metadata.recursion_desired = true;
        answer.metadata.recursion_available = true;
        let question = query.queries[0].clone();
        let kind = question.query_type();
        let name = question.name().to_utf8().trim_end_matches('.').to_ascii_lowercase();
        self.queries.lock().unwrap().push(format!("{name} {kind}"));
        answer.add_query(question);
        match self.records(&name, kind) {
            Some(records) => {
                answer.add_answers(records);
            }
            None => answer.metadata.response_code = ResponseCode::NXDomain,
        }
        let bytes = answer.to_vec().unwrap();
        if bytes.len() <= bytes_max {
            return bytes;
        }
        answer.answers.clear();
        answer.metadata.truncation = true;
        answer.to_vec().unwrap()
    }

    /// What a resolver says: an alias, and behind it what that name has.
    fn records(&self, name: &str, kind: RecordType) -> Option<Vec<Record>> {
        let record = |data| Record::from_rdata(Name::from_ascii(format!("{name}.")).unwrap(), 0, data);
        let address = |address: IpAddr| match address {
            IpAddr::V4(v4) if kind == RecordType::A => Some(record(RData::A(v4.into()))),
            IpAddr::V6(v6) if kind == RecordType::AAAA => Some(record(RData::AAAA(v6.into()))),
            _ => None,
        };
        if name == LONG {
            let many = (0..200).map(|n| format!("93.184.217.{n}")).chain(["10.1.2.3".into()]);
            return Some(many.filter_map(|text| address(text.parse().unwrap())).collect());
        }
        let (_, sets) = ZONE.iter().find(|(known, _)| *known == name)?;
        let mut lookups = self.lookups.lock().unwrap();
        let lookup = lookups.entry((name.to_owned(), kind)).or_default();
        let set = sets[(*lookup).min(sets.len() - 1)];
        *lookup += 1;
        drop(lookups);
        let mut records = Vec::new();
        for entry in set {
            if let Ok(found) = entry.parse() {
                records.extend(address(found));
            } else {
                let alias = CNAME(Name::from_ascii(format!("{entry}.")).unwrap());
                records.push(record(RData::CNAME(alias)));
                // One kind of resolver follows aliases, the other leaves that to who asks.
                if name != "alias-of-alias.example" {
                    records.extend(self.records(entry, kind)?);
                }
            }
        }
        Some(records)
    }
}

/// Listens, and answers in tasks.
pub async fn serve(dns: Arc<Dns>) {
    let datagrams = UdpSocket::bind(super::RESOLVER).await.unwrap();
    let listener = TcpListener::bind(super::RESOLVER).await.unwrap();
    let of_datagrams = dns.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = datagrams.recv_from(&mut buffer).await.unwrap();
            let answer = of_datagrams.answer(&buffer[..length], 1200);
            datagrams.send_to(&answer, from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let dns = dns.clone();
            tokio::spawn(async move {
                while let Ok(length) = stream.read_u16().await {
                    let mut query = vec![0; usize::from(length)];
                    stream.read_exact(&mut query).await.unwrap();
                    let answer = dns.answer(&query, usize::from(u16::MAX));
                    stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            });
        }
    });
}
