package agent

import _ "embed"

//go:embed agent_arm64.elf
var object []byte
