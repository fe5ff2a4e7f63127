//! `aws`: a web identity token of the Security Token Service.

use std::time::Duration;

use ::identity::{Aws, AwsAlgorithm, is_region};
use process::Failure;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::identity::value::duration;
use crate::config::write_duration;

/// What AWS takes, and what it gives unless told otherwise.
const SHORTEST: Duration = Duration::from_secs(60);
const DEFAULT_DURATION: Duration = Duration::from_secs(300);
const LONGEST: Duration = Duration::from_secs(3600);
const MOST_AUDIENCES: usize = 10;
const LONGEST_AUDIENCE: usize = 1000;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAws {
    audiences: Vec<String>,
    region: Option<String>,
    algorithm: Option<String>,
    duration: Option<String>,
}

pub(super) fn convert(raw: RawAws) -> Result<Aws, Failure> {
    let key = |name: &str| format!("identity.source.aws.{name}");
    let count = raw.audiences.len();
    if count == 0 || count > MOST_AUDIENCES {
        return Err(
            Failure::config(format!("{} has {count} entries", key("audiences")))
                .next("write one to ten: the first is what the rule wants as aud"),
        );
    }
    let fits = |audience: &String| (1..=LONGEST_AUDIENCE).contains(&audience.len());
    if !raw.audiences.iter().all(fits) {
        return Err(Failure::config(format!(
            "an entry of {} is empty or too long",
            key("audiences")
        ))
        .next("write 1 to 1000 characters"));
    }
    if let Some(region) = &raw.region
        && !is_region(region)
    {
        return Err(Failure::config(format!("{} is {region:?}", key("region")))
            .next("write the code of a region, such as eu-central-1"));
    }
    let life = duration(&key("duration"), raw.duration, DEFAULT_DURATION, SHORTEST)?;
    if life > LONGEST {
        return Err(
            Failure::config(format!("{} is {}", key("duration"), write_duration(life)))
                .next("write at most 1h"),
        );
    }
    Ok(Aws {
        audiences: raw.audiences,
        region: raw.region,
        algorithm: algorithm(&key("algorithm"), raw.algorithm.as_deref())?,
        // AWS knows whole seconds only.
        duration: Duration::from_secs(life.as_secs()),
    })
}

fn algorithm(key: &str, text: Option<&str>) -> Result<AwsAlgorithm, Failure> {
    let Some(text) = text else {
        return Ok(AwsAlgorithm::Rs256);
    };
    let all = [AwsAlgorithm::Rs256, AwsAlgorithm::Es384];
    let found = all.into_iter().find(|one| one.name() == text);
    found.ok_or_else(|| {
        Failure::config(format!("{key} is {text:?}")).next("write one of RS256, ES384")
    })
}

pub(super) fn json(aws: &Aws) -> Value {
    json!({
        "audiences": aws.audiences, "region": aws.region, "algorithm": aws.algorithm.name(),
        "duration": write_duration(aws.duration),
    })
}
