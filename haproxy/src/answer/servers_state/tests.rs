use super::*;
use crate::fixtures;

fn every_version() -> Vec<ServersState> {
    fixtures::every("show-servers-state").iter().map(|(_, text)| ServersState::parse(text).unwrap()).collect()
}

fn row<'a>(state: &'a ServersState, server: &str) -> &'a ServerRow {
    state.servers.iter().find(|row| row.server.server.as_ref() == server).unwrap()
}

#[test]
fn every_server_is_told_with_its_ids() {
    for state in every_version() {
        let names: Vec<_> = state.servers.iter().map(|row| row.server.to_string()).collect();
        let web = [
            "static-up",
            "static-down",
            "static-drain",
            "web-1",
            "web-2",
            "web-3",
            "web-4",
            "web-5",
            "web-6",
        ];
        let api = ["disabled", "named", "api-1", "api-2"];
        let all =
            web.map(|name| format!("web/{name}")).into_iter().chain(api.map(|name| format!("api/{name}")));
        assert_eq!(names, all.collect::<Vec<_>>());
        assert_eq!(row(&state, "web-3").id.get(), 10_003);
        assert_ne!(row(&state, "web-1").backend_id, row(&state, "api-1").backend_id);
        assert_eq!(state.skipped, 0);
    }
}

#[test]
fn states_are_told_apart() {
    for state in every_version() {
        let ready = |name| row(&state, name).admin.is_ready();
        assert!(ready("static-up") && ready("web-1") && ready("web-3") && ready("web-4") && ready("api-1"));
        assert!(row(&state, "web-2").admin.is_forced_drain() && row(&state, "static-drain").admin.is_drain());
        assert!(
            row(&state, "web-6").admin.is_forced_maint() && !row(&state, "web-6").admin.is_configured_maint()
        );
        let disabled = row(&state, "disabled").admin;
        assert!(disabled.is_forced_maint() && disabled.is_configured_maint());
        let named = row(&state, "named").admin;
        assert!(named.is_maint() && !named.is_forced_maint());
        let op = |name| row(&state, name).op;
        assert_eq!(
            (op("static-up"), op("static-down"), op("web-3")),
            (OpState::Running, OpState::Stopped, OpState::Starting)
        );
        assert_eq!(
            (op("web-1"), op("web-2"), op("web-6")),
            (OpState::Running, OpState::Running, OpState::Stopped)
        );
    }
}

#[test]
fn addresses_and_weights_are_told() {
    for state in every_version() {
        let addr = |name| row(&state, name).addr().map(|addr| addr.to_string());
        assert_eq!(addr("web-5").unwrap(), "10.0.0.5:3000");
        assert_eq!(addr("api-1").unwrap(), "[fd00::7]:3002");
        assert_eq!(addr("api-2").unwrap(), "[::ffff:10.0.0.8]:3000");
        assert_eq!((addr("named"), row(&state, "named").port), (None, Some(80)));
        let weights = |name| (row(&state, name).weight.get(), row(&state, name).initial_weight.get());
        assert_eq!((weights("api-1"), weights("static-up")), ((256, 100), (1, 1)));
    }
}

#[test]
fn checks_are_told() {
    for state in every_version() {
        let check = |name| (row(&state, name).check.is_configured(), row(&state, name).check.is_enabled());
        assert_eq!((check("web-1"), check("web-5")), ((false, false), (true, false)));
        assert_eq!((check("web-3"), check("static-up")), ((true, true), (true, true)));
        assert_eq!(row(&state, "web-5").check_passed, None);
        // While a check runs there is no result.
        assert_ne!(row(&state, "web-3").check_passed, Some(false));
        assert_ne!(row(&state, "web-4").check_passed, Some(true));
    }
}

#[test]
fn one_backend_none_and_an_empty_one() {
    for (_, text) in fixtures::every("show-servers-state-web") {
        assert_eq!(ServersState::parse(&text).unwrap().servers.len(), 9);
    }
    for (_, text) in fixtures::every("show-servers-state-empty") {
        assert_eq!(ServersState::parse(&text), Ok(ServersState::default()));
    }
    for (_, text) in fixtures::every("show-servers-state-nowhere") {
        assert_eq!(ServersState::parse(&text), Err(AnswerError::NoSuchBackend));
    }
}

const HEADER: &str = "be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight \
                      srv_time_since_last_change srv_check_result srv_check_health srv_check_state srv_port";

fn parse(rows: &str) -> Result<ServersState, AnswerError> {
    ServersState::parse(&format!("1\n# {HEADER}\n{rows}\n"))
}

#[test]
fn columns_go_by_name_and_odd_rows_by_their_kind() {
    let state = parse("3 web 7 web-1 10.0.0.5 2 0 1 1 -5 3 2 6 4294967295").unwrap();
    let row = &state.servers[0];
    assert_eq!((row.port, row.addr(), row.since_change_s, row.check_passed), (None, None, 0, Some(true)));
    let state = parse("3 web 7 odd/name - 2 0 1 1 0 0 0 0 80\n3 web 8 web-1 - 2 0 1 1 0 0 0 0 80").unwrap();
    assert_eq!((state.servers.len(), state.skipped), (1, 1));
    let said = parse("3 web 0 web-1 - 2 0 1 1 0 0 0 0 80").unwrap_err().to_string();
    assert_eq!(said, "HAProxy's answer to `show servers state` has `0` for `srv_id`");
    let said = parse("3 web 7 web-1 - 2").unwrap_err().to_string();
    assert_eq!(said, "HAProxy's answer to `show servers state` has no `srv_port`");
}

#[test]
fn another_format_is_refused() {
    assert!(matches!(ServersState::parse("2\n# be_id\n"), Err(AnswerError::Unexpected { .. })));
    assert!(matches!(ServersState::parse("1\n"), Err(AnswerError::Missing { .. })));
    assert!(matches!(ServersState::parse(""), Err(AnswerError::Unexpected { .. })));
}
