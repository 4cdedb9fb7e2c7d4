//! Times as Go's `time.Parse` reads them, with its errors.

use jiff::{Timestamp, civil, tz::Offset};

/// Which of the API's two forms of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeForm {
    /// Whole seconds: `2006-01-02T15:04:05Z`. A fraction is read and dropped.
    Seconds,
    /// Six digits of a fraction, neither more nor less: `2006-01-02T15:04:05.000000Z`.
    Micros,
}

impl TimeForm {
    fn layout(self) -> &'static str {
        match self {
            Self::Seconds => "2006-01-02T15:04:05Z07:00",
            Self::Micros => "2006-01-02T15:04:05.000000Z07:00",
        }
    }
}

/// A time in UTC in its canonical form; `None` for Go's zero time, which is written as null.
///
/// # Errors
/// What Go's `time.Parse` says.
pub fn canonical_time(text: &str, form: TimeForm) -> Result<Option<String>, String> {
    let mut reader = Reader { text, rest: text, form };
    let year = reader.digits(4, "2006")?;
    reader.literal("-")?;
    let month = reader.digits(2, "01")?;
    if !(1..=12).contains(&month) {
        return Err(reader.out_of_range("month"));
    }
    reader.literal("-")?;
    let day = reader.digits(2, "02")?;
    reader.literal("T")?;
    let hour = reader.digits(2, "15")?;
    if hour > 23 {
        return Err(reader.out_of_range("hour"));
    }
    reader.literal(":")?;
    let minute = reader.digits(2, "04")?;
    if minute > 59 {
        return Err(reader.out_of_range("minute"));
    }
    reader.literal(":")?;
    let second = reader.digits(2, "05")?;
    if second > 59 {
        return Err(reader.out_of_range("second"));
    }
    let micros = reader.fraction()?;
    let offset_seconds = reader.offset()?;
    if !reader.rest.is_empty() {
        return Err(format!("parsing time {:?}: extra text: {:?}", text, reader.rest));
    }
    let date = civil::Date::new(narrow(year)?, narrow(month)?, narrow(day)?).map_err(|_| reader.out_of_range("day"))?;
    let time = civil::Time::new(narrow(hour)?, narrow(minute)?, narrow(second)?, 0)
        .map_err(|_| reader.out_of_range("hour"))?;
    let offset = Offset::from_seconds(offset_seconds).map_err(|_| reader.out_of_range("time zone offset"))?;
    let moment = offset.to_timestamp(civil::DateTime::from_parts(date, time));
    let moment: Timestamp = moment.map_err(|_| reader.out_of_range("year"))?;
    let utc = Offset::UTC.to_datetime(moment);
    if micros == 0 && (utc.year(), utc.month(), utc.day(), utc.time()) == (1, 1, 1, civil::Time::midnight()) {
        return Ok(None);
    }
    Ok(Some(match form {
        TimeForm::Seconds => moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        TimeForm::Micros => format!("{}.{micros:06}Z", moment.strftime("%Y-%m-%dT%H:%M:%S")),
    }))
}

fn narrow<T: TryFrom<u32>>(number: u32) -> Result<T, String> {
    T::try_from(number).map_err(|_| "time: number out of range".to_owned())
}

struct Reader<'t> {
    text: &'t str,
    rest: &'t str,
    form: TimeForm,
}

impl Reader<'_> {
    fn cannot(&self, element: &str) -> String {
        format!("parsing time {:?} as {:?}: cannot parse {:?} as {element:?}", self.text, self.form.layout(), self.rest)
    }

    fn out_of_range(&self, what: &str) -> String {
        format!("parsing time {:?}: {what} out of range", self.text)
    }

    fn digits(&mut self, count: usize, element: &str) -> Result<u32, String> {
        let found = self.rest.get(..count).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let Some(number) = found.and_then(|digits| digits.parse().ok()) else { return Err(self.cannot(element)) };
        self.rest = &self.rest[count..];
        Ok(number)
    }

    fn literal(&mut self, literal: &str) -> Result<(), String> {
        match self.rest.strip_prefix(literal) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => Err(self.cannot(literal)),
        }
    }

    /// The microseconds after the seconds.
    fn fraction(&mut self) -> Result<u32, String> {
        let digits = match self.rest.strip_prefix(['.', ',']) {
            Some(rest) => rest.bytes().take_while(u8::is_ascii_digit).count(),
            None => 0,
        };
        if self.form == TimeForm::Seconds {
            // The layout has none, and Go takes one all the same.
            self.rest = if digits > 0 { &self.rest[1 + digits..] } else { self.rest };
            return Ok(0);
        }
        let found = self.rest.strip_prefix('.').and_then(|rest| rest.get(..6));
        match found.filter(|six| six.bytes().all(|byte| byte.is_ascii_digit())).and_then(|six| six.parse().ok()) {
            Some(micros) => {
                self.rest = &self.rest[7..];
                Ok(micros)
            }
            None => Err(self.cannot(".000000")),
        }
    }

    /// The seconds by which the time is ahead of UTC.
    fn offset(&mut self) -> Result<i32, String> {
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let bytes = self.rest.as_bytes();
        let is_offset = bytes.len() >= 6
            && matches!(bytes[0], b'+' | b'-')
            && bytes[3] == b':'
            && [1, 2, 4, 5].iter().all(|at| bytes[*at].is_ascii_digit());
        if !is_offset {
            return Err(self.cannot("Z07:00"));
        }
        let number = |at: usize| i32::from(bytes[at] - b'0') * 10 + i32::from(bytes[at + 1] - b'0');
        let (hours, minutes) = (number(1), number(4));
        if hours > 24 {
            return Err(self.out_of_range("time zone offset hour"));
        }
        if minutes > 60 {
            return Err(self.out_of_range("time zone offset minute"));
        }
        let seconds = hours * 3600 + minutes * 60;
        let seconds = if bytes[0] == b'-' { -seconds } else { seconds };
        self.rest = &self.rest[6..];
        Ok(seconds)
    }
}
