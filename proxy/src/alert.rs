//! Names of TLS alerts: one list for reports and metrics, one for the log lines that operators grep for.

use rustls::AlertDescription;
use tokio_rustls::rustls;

/// Label of a handshake that broke without an alert.
pub(crate) const IO: &str = "io";
/// Label of a handshake that took too long.
pub(crate) const TIMEOUT: &str = "timeout";
/// Label of a handshake that had to make room for a later one.
pub(crate) const EVICTED: &str = "evicted";
/// Label of every other failed handshake.
pub(crate) const OTHER: &str = "other";

/// The alert's name in RFC 8446 section 6, or [`OTHER`]: a closed list, since it labels a metric.
pub(crate) fn label(alert: AlertDescription) -> &'static str {
    row(alert).map_or(OTHER, |(_, label, _)| *label)
}

/// How the stock proxy, a Go program, words the alert in its log: `tunnels.md` 3.4.
pub(crate) fn text(alert: AlertDescription) -> &'static str {
    row(alert).map_or("unexpected alert", |(_, _, text)| *text)
}

/// Whether the alert named `label` is a verdict on the certificate that was shown. `decrypt_error`
/// is one: of two CAs of the same name the wrong one is known, and the signature does not fit.
pub(crate) fn is_about_certificate(label: &str) -> bool {
    matches!(label, "unknown_ca" | "decrypt_error")
        || (label.contains("certificate") && label != "certificate_required")
}

type Row = (AlertDescription, &'static str, &'static str);

fn row(alert: AlertDescription) -> Option<&'static Row> {
    ROWS.iter().find(|(known, _, _)| *known == alert)
}

const ROWS: &[Row] = &[
    (
        AlertDescription::CloseNotify,
        "close_notify",
        "close notify",
    ),
    (
        AlertDescription::UnexpectedMessage,
        "unexpected_message",
        "unexpected message",
    ),
    (
        AlertDescription::BadRecordMac,
        "bad_record_mac",
        "bad record MAC",
    ),
    (
        AlertDescription::HandshakeFailure,
        "handshake_failure",
        "handshake failure",
    ),
    (
        AlertDescription::BadCertificate,
        "bad_certificate",
        "bad certificate",
    ),
    (
        AlertDescription::UnsupportedCertificate,
        "unsupported_certificate",
        "unsupported certificate",
    ),
    (
        AlertDescription::CertificateRevoked,
        "certificate_revoked",
        "revoked certificate",
    ),
    (
        AlertDescription::CertificateExpired,
        "certificate_expired",
        "expired certificate",
    ),
    (
        AlertDescription::CertificateUnknown,
        "certificate_unknown",
        "unknown certificate",
    ),
    (
        AlertDescription::IllegalParameter,
        "illegal_parameter",
        "illegal parameter",
    ),
    (
        AlertDescription::UnknownCA,
        "unknown_ca",
        "unknown certificate authority",
    ),
    (
        AlertDescription::AccessDenied,
        "access_denied",
        "access denied",
    ),
    (
        AlertDescription::DecodeError,
        "decode_error",
        "error decoding message",
    ),
    (
        AlertDescription::DecryptError,
        "decrypt_error",
        "error decrypting message",
    ),
    (
        AlertDescription::ProtocolVersion,
        "protocol_version",
        "protocol version not supported",
    ),
    (
        AlertDescription::InsufficientSecurity,
        "insufficient_security",
        "insufficient security level",
    ),
    (
        AlertDescription::InternalError,
        "internal_error",
        "internal error",
    ),
    (
        AlertDescription::UserCanceled,
        "user_canceled",
        "user canceled",
    ),
    (
        AlertDescription::UnrecognisedName,
        "unrecognized_name",
        "unrecognized name",
    ),
    (
        AlertDescription::CertificateRequired,
        "certificate_required",
        "certificate required",
    ),
    (
        AlertDescription::NoApplicationProtocol,
        "no_application_protocol",
        "no application protocol",
    ),
];
