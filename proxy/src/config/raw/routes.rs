//! The shapes of `routes`: what is none of them is refused with the stock proxy's text and the route's name.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::Scalar;

/// `routes`: a flat map, or the word `daemon`.
#[derive(Debug)]
pub(in crate::config) enum RawRoutes {
    Daemon,
    Map(BTreeMap<String, control::Route>),
}

impl<'de> Deserialize<'de> for RawRoutes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapOrWord;
        impl<'de> Visitor<'de> for MapOrWord {
            type Value = RawRoutes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of names to upstreams, or the word daemon")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<RawRoutes, E> {
                match text {
                    "daemon" => Ok(RawRoutes::Daemon),
                    _ => Err(E::custom(Misfit("!!str"))),
                }
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<RawRoutes, E> {
                Err(E::custom(Misfit("!!bool")))
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<RawRoutes, E> {
                Err(E::custom(Misfit("!!int")))
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<RawRoutes, E> {
                Err(E::custom(Misfit("!!int")))
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<RawRoutes, E> {
                Err(E::custom(Misfit("!!float")))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<RawRoutes, A::Error> {
                Err(de::Error::custom(Misfit("!!seq")))
            }

            fn visit_unit<E: de::Error>(self) -> Result<RawRoutes, E> {
                Ok(RawRoutes::Map(BTreeMap::new()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawRoutes, A::Error> {
                let mut routes = BTreeMap::new();
                while let Some(Scalar(name)) = map.next_key()? {
                    let route = map.next_value_seed(Named(&name))?;
                    routes.insert(name, route);
                }
                Ok(RawRoutes::Map(routes))
            }
        }
        deserializer.deserialize_any(MapOrWord)
    }
}

/// `routes` is no map. The text of the stock proxy, which operators look for.
struct Misfit(&'static str);

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{UNFIT} {} into map[string]string", self.0)
    }
}

/// Begins the text of every value under `routes` that has the wrong shape.
pub(super) const UNFIT: &str = "cannot unmarshal";

/// One route, with its name for what is wrong with it. Any scalar is taken as text, as the stock proxy
/// does, and refused for what it says.
struct Named<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Named<'_> {
    type Value = control::Route;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Named<'_> {
    type Value = control::Route;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("scheme://host:port, or a map with the key upstream")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(control::Route {
            upstream: text.to_owned(),
            preserve_host: false,
        })
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
        self.visit_str(if value { "true" } else { "false" })
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        self.visit_str("")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        let name = self.0;
        let text = format!("{UNFIT} !!seq into string, the upstream of route {name:?}");
        Err(de::Error::custom(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut upstream, mut preserve_host) = (None, false);
        while let Some(Scalar(key)) = map.next_key()? {
            match key.as_str() {
                "upstream" => upstream = Some(map.next_value::<Scalar>()?.0),
                "preserve_host" => preserve_host = map.next_value()?,
                // A newer daemon's unknown keys are tolerated, a file's are not.
                other => {
                    return Err(de::Error::unknown_field(
                        other,
                        &["preserve_host", "upstream"],
                    ));
                }
            }
        }
        let missing = || {
            de::Error::custom(format!(
                "{UNFIT} !!map without upstream into route {:?}",
                self.0
            ))
        };
        Ok(control::Route {
            upstream: upstream.ok_or_else(missing)?,
            preserve_host,
        })
    }
}
