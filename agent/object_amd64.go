package agent

import _ "embed"

//go:embed agent_amd64.elf
var object []byte
