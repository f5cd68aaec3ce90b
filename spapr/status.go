package spapr

import "fmt"

// Status is what a hypercall returns in r3.
type Status int64

// Statuses that the calls here return.
const (
	HSuccess   Status = 0
	HBusy      Status = 1  // try again
	HHardware  Status = -1 // the device failed
	HFunction  Status = -2 // no such call
	HPrivilege Status = -3 // called in user mode
	HParameter Status = -4 // invalid argument
)

// String returns the name that the PAPR has for s.
func (s Status) String() string {
	switch s {
	case HSuccess:
		return "H_SUCCESS"
	case HBusy:
		return "H_BUSY"
	case HHardware:
		return "H_HARDWARE"
	case HFunction:
		return "H_FUNCTION"
	case HPrivilege:
		return "H_PRIVILEGE"
	case HParameter:
		return "H_PARAMETER"
	}
	return fmt.Sprintf("Status(%d)", int64(s))
}

// RTASStatus is what an RTAS service returns in the first word of its
// results.
type RTASStatus int32

// Statuses that the services here return.
const (
	RTASSuccess          RTASStatus = 0
	RTASNoEvents         RTASStatus = 1     // nothing to report
	RTASHardwareError    RTASStatus = -1    // the device failed, or is not there
	RTASBusy             RTASStatus = -2    // try again
	RTASParameterError   RTASStatus = -3    // invalid argument, and not supported
	RTASNotAuthorized    RTASStatus = -9002 // of a system parameter
	RTASSystemParamError RTASStatus = -9999 // of a system parameter: no room
)

// String returns what s means.
func (s RTASStatus) String() string {
	switch s {
	case RTASSuccess:
		return "success"
	case RTASNoEvents:
		return "no events"
	case RTASHardwareError:
		return "hardware error"
	case RTASBusy:
		return "busy"
	case RTASParameterError:
		return "parameter error"
	case RTASNotAuthorized:
		return "not authorized"
	case RTASSystemParamError:
		return "system parameter error"
	}
	return fmt.Sprintf("RTASStatus(%d)", int32(s))
}
