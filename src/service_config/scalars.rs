//! Values as proto3's JSON writes them: numbers also as strings, durations as decimal seconds, enums by name or
//! number. Each refuses what is out of its range, so that the error has the path of the field itself.

use std::fmt;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Unexpected, Visitor};

/// A message. Serde's own structs are also read from lists, by the order of their fields.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ByName<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ByName<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(ByName(std::marker::PhantomData))
    }
}

/// A whole number in `LEAST..=MOST`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Integer<const LEAST: u32, const MOST: u32>(pub(super) u32);

/// Any that a proto `uint32` holds.
pub(super) type Uint32 = Integer<0, { u32::MAX }>;

pub(super) type Percentage = Integer<0, 100>;

impl<'de, const LEAST: u32, const MOST: u32> Deserialize<'de> for Integer<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole<const LEAST: u32, const MOST: u32>;

        impl<const LEAST: u32, const MOST: u32> Visitor<'_> for Whole<LEAST, MOST> {
            type Value = Integer<LEAST, MOST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match MOST {
                    u32::MAX => write!(f, "a whole number from {LEAST} on"),
                    _ => write!(f, "a whole number from {LEAST} to {MOST}"),
                }
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                u32::try_from(number)
                    .ok()
                    .filter(|number| (LEAST..=MOST).contains(number))
                    .map(Integer)
                    .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                match u64::try_from(number) {
                    Ok(number) => self.visit_u64(number),
                    Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
                }
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
                // What a u32 holds is exact in either type.
                let whole = number as u32;
                if f64::from(whole) == number {
                    return self.visit_u64(u64::from(whole));
                }
                Err(E::invalid_value(Unexpected::Float(number), &self))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                match text.parse::<f64>() {
                    Ok(number) => self.visit_f64(number),
                    Err(_) => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }
        }

        deserializer.deserialize_any(Whole::<LEAST, MOST>)
    }
}

/// A finite number from 0 on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Float(pub(super) f64);

impl<'de> Deserialize<'de> for Float {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Finite;

        impl Visitor<'_> for Finite {
            type Value = Float;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 0 on")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Float, E> {
                self.visit_f64(number as f64)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Float, E> {
                self.visit_f64(number as f64)
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Float, E> {
                if number.is_finite() && number >= 0.0 {
                    return Ok(Float(number));
                }
                Err(E::invalid_value(Unexpected::Float(number), &self))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Float, E> {
                match text.parse() {
                    Ok(number) => self.visit_f64(number),
                    Err(_) => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }
        }

        deserializer.deserialize_any(Finite)
    }
}

/// A finite number above 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct PositiveFloat(pub(super) f64);

impl<'de> Deserialize<'de> for PositiveFloat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Float(number) = Float::deserialize(deserializer)?;
        if number > 0.0 {
            return Ok(Self(number));
        }
        Err(D::Error::custom("is not above 0"))
    }
}

/// A time from zero on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time(pub(super) Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seconds;

        impl Visitor<'_> for Seconds {
            type Value = Time;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("seconds from 0 on as a string, as \"1.5s\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Time, E> {
                let decimals = text
                    .split_once('.')
                    .map_or(0, |(_, decimals)| decimals.len());
                text.parse::<prost_types::Duration>()
                    .ok()
                    // Nanoseconds and the s. What is finer would be cut off.
                    .filter(|duration| decimals <= 10 && duration.seconds <= MOST_SECONDS)
                    .and_then(|duration| Duration::try_from(duration).ok())
                    .map(Time)
                    .ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_str(Seconds)
    }
}

/// About 10,000 years: the longest of `google.protobuf.Duration`.
const MOST_SECONDS: i64 = 315_576_000_000;

/// A time above zero.
#[derive(Debug, Clone, Copy)]
pub(super) struct PositiveTime(pub(super) Duration);

impl<'de> Deserialize<'de> for PositiveTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Time(time) = Time::deserialize(deserializer)?;
        if time.is_zero() {
            return Err(D::Error::custom("is zero"));
        }
        Ok(Self(time))
    }
}

/// A gRPC status code that is a failure.
#[derive(Debug, Clone, Copy)]
pub(super) struct FailureCode(pub(super) i32);

/// By their numbers, from 1 on.
const NAMES: [&str; 16] = [
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl<'de> Deserialize<'de> for FailureCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrNumber;

        impl Visitor<'_> for NameOrNumber {
            type Value = FailureCode;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a gRPC status code but OK, or its number, 1 to 16")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<FailureCode, E> {
                match i32::try_from(number) {
                    Ok(code @ 1..=16) => Ok(FailureCode(code)),
                    _ => Err(E::invalid_value(Unexpected::Unsigned(number), &self)),
                }
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<FailureCode, E> {
                let same = |known: &&str| known.eq_ignore_ascii_case(name);
                match (1..).zip(&NAMES).find(|(_, known)| same(known)) {
                    Some((code, _)) => Ok(FailureCode(code)),
                    None => Err(E::invalid_value(Unexpected::Str(name), &self)),
                }
            }
        }

        deserializer.deserialize_any(NameOrNumber)
    }
}
