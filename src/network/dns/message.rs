//! Messages of DNS: what is read of a question, how an answer is made, and how it is cut to a size.

use hickory_proto::op::{Message, MessageType, ResponseCode};
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;

/// The largest answer by UDP to a question that names no size (RFC 1035, section 4.2.1).
const PLAIN_UDP: usize = 512;
/// The header's length; the questions follow it.
const HEADER: usize = 12;

/// A question that can be answered: a query, with one question at least.
pub fn parse(raw: &[u8]) -> Option<Message> {
    let query = Message::from_vec(raw).ok()?;
    (query.message_type() == MessageType::Query && !query.queries().is_empty()).then_some(query)
}

/// An answer without records.
pub fn reply(query: &Message, code: ResponseCode) -> Message {
    let mut message = Message::new();
    message.set_id(query.id()).set_message_type(MessageType::Response).set_op_code(query.op_code());
    message.set_recursion_desired(query.recursion_desired()).set_recursion_available(true).set_response_code(code);
    message.add_queries(query.queries().iter().cloned());
    message
}

/// How large an answer by UDP may be: what the question's EDNS record says (RFC 6891), 512 without.
pub fn udp_size(query: &Message) -> usize {
    query.extensions().as_ref().map_or(PLAIN_UDP, |edns| PLAIN_UDP.max(edns.max_payload().into()))
}

/// An answer in bytes. What does not fit is left out and the answer marked as truncated, so that it is asked for by TCP. Its
/// records are all of one kind and name, and so of one size.
pub fn encode(mut answer: Message, size: usize) -> Option<Vec<u8>> {
    let whole = answer.to_vec().ok()?;
    if whole.len() <= size {
        return Some(whole);
    }
    let mut records = answer.take_answers();
    answer.set_truncated(true);
    let empty = answer.to_vec().ok()?;
    let each = (whole.len() - empty.len()).div_ceil(records.len().max(1)).max(1);
    records.truncate(size.saturating_sub(empty.len()) / each);
    answer.add_answers(records);
    answer.to_vec().ok()
}

/// The id of a message.
pub fn id(raw: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(raw.get(..2)?.try_into().ok()?))
}

/// The response code of an answer.
pub fn code(raw: &[u8]) -> Option<ResponseCode> {
    raw.get(3).map(|flags| ResponseCode::from_low(flags & 0xf))
}

/// Where the first question of a message is: name, type and class. `None` where it is cut short, or its name is compressed:
/// nothing stands before it that it could refer to.
pub fn question(raw: &[u8]) -> Option<Range<usize>> {
    const POINTER: u8 = 0xc0;
    const TYPE_AND_CLASS: usize = 4;
    let questions = u16::from_be_bytes(raw.get(4..6)?.try_into().ok()?);
    let mut at = HEADER;
    if questions == 0 {
        return None;
    }
    loop {
        match *raw.get(at)? {
            0 => return raw.get(..at + 1 + TYPE_AND_CLASS).map(|whole| HEADER..whole.len()),
            length if length & POINTER == 0 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// Whether a datagram is the answer to a question: a response that repeats it, letters of either case.
pub fn answers(raw: &[u8], asked: &[u8]) -> bool {
    const RESPONSE: u8 = 0x80;
    raw.get(2).is_some_and(|flags| flags & RESPONSE != 0) && question(raw).is_some_and(|at| raw[at].eq_ignore_ascii_case(asked))
}

/// The address that `4.3.2.1.in-addr.arpa`, or 32 hexadecimal digits before `ip6.arpa`, ask about.
pub fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<&str> = octets.split('.').rev().collect();
        return octets.join(".").parse().ok();
    }
    let digits: Vec<&str> = name.strip_suffix(".ip6.arpa")?.split('.').rev().collect();
    let single = digits.len() == 32 && digits.iter().all(|digit| digit.len() == 1);
    let bits = u128::from_str_radix(&digits.concat(), 16).ok().filter(|_| single)?;
    Some(Ipv6Addr::from_bits(bits).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{Edns, Query};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record, RecordType};
    use std::net::Ipv4Addr;

    fn query(name: &str) -> Message {
        let mut query = Message::new();
        query.set_id(7).add_query(Query::query(Name::from_ascii(name).expect("name"), RecordType::A));
        query
    }

    fn answer(query: &Message, records: u8) -> Message {
        let mut answer = reply(query, ResponseCode::NoError);
        for n in 0..records {
            let name = query.queries()[0].name().clone();
            answer.add_answer(Record::from_rdata(name, 5, RData::A(A(Ipv4Addr::new(10, 0, 0, n)))));
        }
        answer
    }

    #[test]
    fn an_answer_that_is_too_large_is_cut_and_says_so() {
        let query = query("web.");
        let cut = encode(answer(&query, 40), udp_size(&query)).expect("bytes");
        let read = Message::from_vec(&cut).expect("message");
        assert!(cut.len() <= 512 && read.truncated() && read.answers().len() > 25, "{} bytes, {read}", cut.len());
        let fits = encode(answer(&query, 20), 512).expect("bytes");
        let read = Message::from_vec(&fits).expect("message");
        assert!(!read.truncated() && read.answers().len() == 20);
        assert_eq!(Message::from_vec(&encode(answer(&query, 40), 20).expect("bytes")).expect("message").answers().len(), 0);
    }

    #[test]
    fn the_size_is_the_questions() {
        let mut query = query("web.");
        assert_eq!(udp_size(&query), 512);
        for (named, size) in [(4096, 4096), (100, 512)] {
            let mut edns = Edns::new();
            edns.set_max_payload(named);
            query.set_edns(edns);
            assert_eq!(udp_size(&query), size);
        }
    }

    #[test]
    fn an_answer_repeats_its_question() {
        let asked = query("Web.example.").to_vec().expect("bytes");
        let own = &asked[question(&asked).expect("question")];
        let to = |name: &str| answer(&query(name), 1).to_vec().expect("bytes");
        assert!(answers(&to("wEB.example."), own));
        assert!(!answers(&to("evil.example."), own));
        assert!(!answers(&asked, own), "a question is no answer");
        for length in 0..asked.len() {
            assert!(question(&asked[..length]).is_none(), "{length}");
        }
        let mut pointer = asked.clone();
        pointer[HEADER] = 0xc0;
        assert!(question(&pointer).is_none());
    }
}
