use super::*;
use crate::fixtures;

fn rows(name: &str) -> Vec<StatRow> {
    fixtures::every(name).iter().map(|(_, text)| StatRow::parse(text).unwrap().unwrap()).collect()
}

#[test]
fn every_version_tells_a_server_s_state() {
    let states = [
        ("up", "web-3", Status::Up, "L4OK"),
        ("down", "web-4", Status::Down, "L4CON"),
        ("drain", "web-2", Status::Drain, ""),
        ("maint", "web-6", Status::Maint, ""),
        ("no-check", "web-1", Status::NoCheck, ""),
    ];
    for (name, server, status, check_status) in states {
        for row in rows(&format!("show-stat-{name}")) {
            assert_eq!((row.server.to_string(), &row.status), (format!("web/{server}"), &status));
            assert_eq!((row.weight.get(), row.check_status.as_str()), (100, check_status));
            assert!(row.is_idle() && row.addr.is_some(), "{row:?}");
        }
    }
}

#[test]
fn all_rows_of_a_backend_are_told_and_names_that_are_no_servers_left_out() {
    for ((version, up), (_, drain)) in
        fixtures::every("show-stat-up").into_iter().zip(fixtures::every("show-stat-drain"))
    {
        let row = drain.lines().nth(1).unwrap();
        let odd = row.replacen(",web-2,", ",no name,", 1);
        let ids: Vec<u32> = super::rows(&format!("{}\n{odd}\n{row}\n\n", up.trim_end()))
            .unwrap()
            .iter()
            .map(|row| row.id.get())
            .collect();
        assert_eq!(ids, [10_003, 10_002], "{version}");
    }
    assert!(super::rows("Permission denied\n").is_err());
}

#[test]
fn ids_and_addresses_are_told() {
    for row in rows("show-stat-drain") {
        assert_eq!(row.id.get(), 10_002);
        assert_eq!(row.addr.unwrap().ip().to_string(), "::1");
    }
    for row in rows("show-stat-up") {
        assert!(row.effective_weight < 100, "in its slow start: {row:?}");
    }
}

#[test]
fn a_request_in_flight_is_seen() {
    assert!(rows("show-stat-busy").iter().all(|row| row.scur == 1 && !row.is_idle()));
}

#[test]
fn a_server_that_is_not_there_is_no_error() {
    for (_, text) in fixtures::every("show-stat-absent") {
        assert_eq!(StatRow::parse(&text), Ok(None));
    }
}

/// Why servers are asked for by their backend's number: this one is there.
#[test]
fn by_name_haproxy_looks_into_a_frontend_of_that_name() {
    for (_, text) in fixtures::every("show-stat-by-name") {
        assert_eq!(StatRow::parse(&text), Ok(None));
    }
}

#[test]
fn a_state_is_told_by_its_first_word() {
    let states = [
        ("UP 1/3", Status::Up),
        ("DOWN 1/2", Status::Down),
        ("DOWN (agent)", Status::Down),
        ("NOLB 1/2", Status::Nolb),
        ("DRAIN (agent)", Status::Drain),
        ("MAINT (via web/web-1)", Status::Maint),
        ("MAINT(resolution)", Status::Maint),
        ("no", Status::Other(Excerpt::of("no"))),
        ("", Status::Other(Excerpt::of(""))),
    ];
    for (text, status) in states {
        assert_eq!(Status::from(text), status, "{text}");
    }
}

#[test]
fn what_is_missing_or_malformed_is_named() {
    let (_, text) = fixtures::every("show-stat-up").remove(0);
    let said = StatRow::parse(&text.replace("uweight", "weight_set")).unwrap_err().to_string();
    assert_eq!(said, "HAProxy's answer to `show stat` has no `uweight`");
    let said = StatRow::parse(&text.replace("web,web-3,0,", "web,web-3,x,")).unwrap_err().to_string();
    assert_eq!(said, "HAProxy's answer to `show stat` has `x` for `qcur`");
    assert!(matches!(StatRow::parse("Permission denied\n"), Err(AnswerError::Unexpected { .. })));
}
