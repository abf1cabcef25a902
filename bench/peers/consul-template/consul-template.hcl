consul {
  address = "127.0.0.1:@CONSUL_HTTP@"
}

template {
  source      = "@TEMPLATE@"
  destination = "@CONFIG@"
  command     = "/bin/sh -c '@HAPROXY@ -c -q -f @CONFIG@ && kill -USR2 @MASTER@'"
}
