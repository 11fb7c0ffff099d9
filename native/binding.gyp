{
  'variables': { 'sanitize%': '0' },
  'targets': [
    {
      'target_name': 'nvmeferry',
      'sources': ['src/all.cc'],
      'include_dirs': ["<!(node -p \"require('node-addon-api').include_dir\")"],
      'defines': ['NAPI_VERSION=8', 'NODE_ADDON_API_DISABLE_CPP_EXCEPTIONS', 'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS', '_GNU_SOURCE'],
      'cflags_cc!': ['-std=gnu++17', '-std=gnu++20', '-fno-rtti'],
      'cflags_cc': ['-std=c++17', '-fno-exceptions', '-fvisibility=hidden', '-Wall', '-Wextra', '-Wno-unused-parameter'],
      'conditions': [
        ['sanitize=="1"', {
          'cflags_cc': ['-fsanitize=address,undefined', '-fno-sanitize-recover=undefined', '-fno-omit-frame-pointer', '-g', '-O1'],
          'ldflags': ['-fsanitize=address,undefined'],
        }],
      ],
    },
  ],
}
