//! The flights: 20,000 records that are compiled in, so that the example runs from any folder.
//!
//! A record is refused rather than guessed at: what is loaded is also what the truth is computed from.

/// The records; data/README.md says where they come from.
const RECORDS: &str = include_str!("../../../data/flights-20k.csv");
/// The first line of the records.
const HEADING: &str = "date,origin,destination,delay,distance";

/// A line that is no flight.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line} of the flights is none: {text:?}")]
pub struct BadRecord {
    /// From 1.
    pub line: usize,
    /// What stands there.
    pub text: String,
}

/// One flight. The distance, which is in the file too, is not needed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flight {
    /// When it departed, as in `2001-01-13 14:56`: the order of the texts is the order in time.
    pub date: String,
    /// The airport that it left.
    pub origin: String,
    /// The airport that it went to.
    pub destination: String,
    /// In minutes; negative when it was early.
    pub delay: i64,
}

impl Flight {
    /// From where to where, as in `SAN-SJC`.
    pub fn route(&self) -> String {
        format!("{}-{}", self.origin, self.destination)
    }
}

/// The first `count` flights, or all.
pub fn load(count: Option<usize>) -> Result<Vec<Flight>, BadRecord> {
    parse(RECORDS, count.unwrap_or(usize::MAX))
}

fn parse(text: &str, count: usize) -> Result<Vec<Flight>, BadRecord> {
    let bad = |line: usize, text: &str| BadRecord { line, text: text.to_owned() };
    let mut lines = (1..).zip(text.lines());
    match lines.next() {
        Some((_, HEADING)) => {}
        other => return Err(bad(1, other.map_or("", |(_, text)| text))),
    }
    lines.take(count).map(|(line, text)| flight(text).ok_or_else(|| bad(line, text))).collect()
}

fn flight(line: &str) -> Option<Flight> {
    let fields: Vec<&str> = line.split(',').collect();
    let [date, origin, destination, delay, distance] = fields[..] else { return None };
    let is_airport = |code: &str| code.len() == 3 && code.bytes().all(|b| b.is_ascii_uppercase());
    if !is_airport(origin) || !is_airport(destination) || distance.parse::<u32>().is_err() {
        return None;
    }
    Some(Flight {
        date: long_date(date)?,
        origin: origin.to_owned(),
        destination: destination.to_owned(),
        delay: delay.parse().ok()?,
    })
}

/// `0113 1456` as `2001-01-13 14:56`.
fn long_date(short: &str) -> Option<String> {
    let (day, time) = short.split_once(' ')?;
    let is_number = |text: &str| text.len() == 4 && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(day) || !is_number(time) {
        return None;
    }
    Some(format!("2001-{}-{} {}:{}", &day[..2], &day[2..], &time[..2], &time[2..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_twenty_thousand_flights_are_there() {
        let flights = load(None).expect("every line is a flight");
        assert_eq!(flights.len(), 20_000);
        let first = &flights[0];
        assert_eq!((first.date.as_str(), first.route().as_str()), ("2001-01-13 14:56", "SAN-SJC"));
        assert_eq!(first.delay, 32);
        assert_eq!(load(Some(3)).expect("flights"), flights[..3]);
    }

    #[test]
    fn a_line_that_is_no_flight_is_refused_with_its_number() {
        let with = |line: &str| parse(&format!("{HEADING}\n{line}\n"), 10);
        assert!(with("0113 1456,SAN,SJC,-5,418").is_ok());
        for line in [
            "",
            "0113 1456,SAN,SJC,32",
            "113 1456,SAN,SJC,32,418",
            "0113 1456,san,SJC,32,418",
            "0113 1456,SAN,SJC,x,418",
        ] {
            assert_eq!(with(line).expect_err(line), BadRecord { line: 2, text: line.into() });
        }
        assert_eq!(parse("date,origin\n", 1).expect_err("another file").line, 1);
    }
}
