//! Why there is no link, and whether trying again soon makes sense.

use std::{fmt, io};

use glg_proto::wire::ClockQuality;
use glg_tls::TlsError;
use rumqttc::mqttbytes::Error as MqttError;
use rumqttc::{ConnectReturnCode, ConnectionError, DisconnectReasonCode, StateError};

use crate::clock;

/// Why a connection did not come about or has ended. Prints one line.
#[derive(Debug)]
pub(super) enum Failure {
    /// Certificates and what goes with them.
    Tls(TlsError),
    /// The broker's answer to our CONNECT.
    Refused(ConnectReturnCode),
    /// The broker has ended the connection and said why.
    Ended(DisconnectReasonCode),
    /// The broker could take no more messages from us now.
    Quota,
    /// Everything else: the network, mostly.
    Lost(Box<ConnectionError>),
}

impl Failure {
    /// Whether somebody has to change something first, here or at the broker.
    pub(super) fn is_refusal(&self) -> bool {
        use ConnectReturnCode as Code;
        match self {
            Failure::Tls(error) => error.is_refusal(),
            Failure::Refused(code) => !matches!(
                code,
                Code::ServerUnavailable
                    | Code::ServiceUnavailable
                    | Code::ServerBusy
                    | Code::UnspecifiedError
                    | Code::ImplementationSpecificError
            ),
            Failure::Ended(code) => matches!(
                code,
                DisconnectReasonCode::NotAuthorized
                    | DisconnectReasonCode::SessionTakenOver
                    | DisconnectReasonCode::AdministrativeAction
            ),
            Failure::Quota => true,
            Failure::Lost(_) => false,
        }
    }
}

impl From<ConnectionError> for Failure {
    fn from(error: ConnectionError) -> Failure {
        match error {
            ConnectionError::ConnectionRefused(code) => Failure::Refused(code),
            ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => {
                Failure::Ended(reason_code)
            }
            ConnectionError::Io(error) => of_io(error, ConnectionError::Io),
            ConnectionError::MqttState(StateError::Io(error)) => of_io(error, |e| StateError::Io(e).into()),
            ConnectionError::MqttState(StateError::Deserialization(MqttError::Io(error))) => {
                of_io(error, |e| StateError::Deserialization(MqttError::Io(e)).into())
            }
            other => Failure::Lost(Box::new(other)),
        }
    }
}

/// What we have put into an [`io::Error`] ourselves, what rustls has, or the error as it was.
fn of_io(error: io::Error, other: impl Fn(io::Error) -> ConnectionError) -> Failure {
    if let Some(known) = TlsError::of(&error) {
        return Failure::Tls(known);
    }
    match error.downcast::<TlsError>() {
        Ok(TlsError::Io(error)) => Failure::Lost(Box::new(other(error))),
        Ok(known) => Failure::Tls(known),
        Err(error) => Failure::Lost(Box::new(other(error))),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ConnectReturnCode as Code;
        match self {
            Failure::Tls(error) if error.is_about_time() => write!(f, "{error} ({})", clock_hint()),
            Failure::Tls(error) => write!(f, "{error}"),
            Failure::Refused(Code::BadUserNamePassword) => f.write_str(
                "the broker refuses user name or password: see mqtt.username and mqtt.password_file",
            ),
            Failure::Refused(Code::NotAuthorized | Code::Banned) => {
                f.write_str("the broker does not let this device in: see its access rules and mqtt.username")
            }
            Failure::Refused(Code::BadClientId | Code::ClientIdentifierNotValid) => {
                f.write_str("the broker refuses this device's client id, glg-NAME: see device.name")
            }
            Failure::Refused(code) => write!(f, "the broker refuses the connection: {code:?}"),
            Failure::Ended(DisconnectReasonCode::SessionTakenOver) => {
                f.write_str("another client uses this device's client id, glg-NAME: see device.name")
            }
            Failure::Ended(code) => write!(f, "the broker has ended the connection: {code:?}"),
            Failure::Quota => {
                f.write_str("the broker takes no more messages from this device now: see its quotas")
            }
            Failure::Lost(error) => write!(f, "{error}"),
        }
    }
}

/// Whether the device's own clock may be why a certificate seems too old or too new.
fn clock_hint() -> &'static str {
    match clock::now().clock {
        ClockQuality::Synced => "this device's clock is kept in step, so look at the certificate",
        ClockQuality::Free => "nobody keeps this device's clock in step, it may be wrong",
        ClockQuality::Wrong => "this device's clock was never set",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: ConnectReturnCode) -> Failure {
        ConnectionError::ConnectionRefused(code).into()
    }

    #[test]
    fn what_somebody_has_to_mend_is_told_from_what_passes() {
        let (reason_code, reason_string) = (DisconnectReasonCode::SessionTakenOver, None);
        let taken: Failure =
            ConnectionError::from(StateError::ServerDisconnect { reason_code, reason_string }).into();
        assert!(
            taken.is_refusal()
                && taken.to_string().starts_with("another client uses this device's client id")
        );
        let password = refused(ConnectReturnCode::BadUserNamePassword);
        assert!(password.is_refusal() && password.to_string().contains("mqtt.password_file"));
        assert!(!refused(ConnectReturnCode::ServerBusy).is_refusal());
        let lost: Failure = ConnectionError::Io(io::ErrorKind::ConnectionRefused.into()).into();
        assert!(!lost.is_refusal());
    }

    /// However deep the MQTT client has wrapped it.
    #[test]
    fn what_tls_complains_of_is_found() {
        use glg_tls::rustls::{AlertDescription, Error};
        let alert = || io::Error::other(Error::AlertReceived(AlertDescription::CertificateRequired));
        for error in [
            ConnectionError::Io(alert()),
            StateError::Io(alert()).into(),
            StateError::Deserialization(MqttError::Io(alert())).into(),
        ] {
            let failure = Failure::from(error);
            assert!(
                failure.is_refusal() && failure.to_string().contains("wants a client certificate"),
                "{failure}"
            );
        }
        let ours = Failure::from(ConnectionError::Io(io::Error::other(TlsError::UnknownIssuer)));
        assert!(matches!(ours, Failure::Tls(TlsError::UnknownIssuer)));
    }
}
